// The pictures behind a cell of the confusion matrix.
const { html, section } = hillstart;

section("quality", (root, data) => {
  if (!data) return; // rows of a table, which cannot be shown
  const behind = root.querySelector("#behind");
  const cells = [...root.querySelectorAll(".cell")];

  function show(cell) {
    cells.forEach((other) => other.setAttribute("aria-pressed", String(other === cell)));
    const cards = data.cells[cell.dataset.cell];
    const { truth, answer } = cards[0];
    const count = Number(cell.textContent);
    const some = cards.length < count ? `, here the ${cards.length} surest` : "";
    const what = truth === answer ? `${truth}, and rightly answered so` : `${truth}, but the answer was “${answer}”`;
    behind.replaceChildren(
      html("h4", { dir: "auto" }, `${count} ${count === 1 ? "picture" : "pictures"} of ${what}${some}`),
      html(
        "ul",
        { class: "gallery" },
        cards.map((card) =>
          html(
            "li",
            {},
            html("span", { class: "sprite", style: `--x: ${card.x}; --y: ${card.y}` }),
            html("span", { class: "soft" }, `${Math.round(100 * card.sure)}\u00a0% sure`),
          ),
        ),
      ),
    );
  }

  cells.forEach((cell) => cell.addEventListener("click", () => show(cell)));
  // The first thing worth a look is a mistake, if there is one.
  const wrong = cells.filter((cell) => cell.classList.contains("wrong"));
  const first = wrong.sort((one, other) => Number(other.textContent) - Number(one.textContent))[0] ?? cells[0];
  if (first) show(first);
});
