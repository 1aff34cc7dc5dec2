// A picture from the camera of this device, where the browser lets a page have one: `open` is a button that is hidden
// otherwise; `panel` holds `video`, what the camera sees, and the buttons `take` and `cancel`. `given` gets the picture as
// a canvas, `complain` one sentence that says why there is none, or "".
function camera({ open, panel, video, take, cancel, given, complain }) {
  const SENTENCES = {
    NotAllowedError: "The browser does not let this page use the camera; allow it there, or choose a file.",
    NotFoundError: "No camera was found; choose a file.",
  };
  let [stream, asked] = [null, 0];

  // Also ends what is still being asked for.
  function stop() {
    asked += 1;
    stream?.getTracks().forEach((track) => track.stop());
    stream = video.srcObject = null;
    panel.hidden = true;
    open.setAttribute("aria-expanded", "false");
  }

  async function begin() {
    stop();
    complain("");
    const mine = asked;
    try {
      const found = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      if (mine !== asked) return found.getTracks().forEach((track) => track.stop());
      stream = video.srcObject = found;
      panel.hidden = false;
      open.setAttribute("aria-expanded", "true");
      await video.play();
      take.focus();
    } catch (error) {
      if (mine !== asked) return;
      stop();
      complain(SENTENCES[error.name] ?? "The camera does not start, perhaps because another program uses it; choose a file.");
    }
  }

  function end() {
    stop();
    open.focus();
  }

  if (!navigator.mediaDevices?.getUserMedia) return;
  open.hidden = false;
  open.addEventListener("click", () => (stream ? end() : begin()));
  cancel.addEventListener("click", end);
  panel.addEventListener("keydown", (event) => event.key === "Escape" && end());
  take.addEventListener("click", () => {
    if (!video.videoWidth) return; // no image has come yet
    const canvas = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    end();
    given(canvas);
  });
}
