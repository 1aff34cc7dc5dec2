"""A pen in an unsteady hand: it collects strokes with small errors and renders them like a photographed doodle."""

import math
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

Point = tuple[float, float]
TURN = 2 * math.pi
SMALL, LARGE = np.linspace(0, 1, 8), np.linspace(0, 1, 20)  # points along ovals
SPIRAL = np.array([(r * math.cos(TURN * 2 * r), r * math.sin(TURN * 2 * r)) for r in np.linspace(0.1, 1, 10)])
SUPERSAMPLING = 4  # drawn this many times larger, then reduced, so that lines have soft edges


class Pen:
    """The strokes of one drawing, in any coordinates with y downwards; `render` scales them to the picture."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.jitter = self.between(0.005, 0.05)
        self.strokes: list[np.ndarray] = []

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self.rng.random())

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def line(self, *points: Point) -> None:
        """Draw straight lines from point to point."""
        self._add(_between_points(len(points)), points)

    def curve(self, *points: Point, closed: bool = False) -> None:
        """Draw a smooth curve through the points."""
        self._add(_spline(len(points), closed), points)

    def oval(self, x: float, y: float, rx: float, ry: float, start: float | None = None, sweep: float = 1.0) -> None:
        """Draw an arc of `sweep` turns from the angle `start`, in turns; without it, an oval that nearly closes."""
        if start is None:
            start = self.between(0, 1)
            sweep = sweep + self.between(-1, 2) * self.jitter
        along = SMALL if max(rx, ry) < 0.12 else LARGE
        angle = TURN * start + TURN * sweep * along
        swell = 1 + (2 * along - 1) * self.between(-2, 2) * self.jitter
        x, y = x + self.between(-1, 1) * self.jitter, y + self.between(-1, 1) * self.jitter
        self.strokes.append(np.stack([x + rx * np.cos(angle) * swell, y + ry * np.sin(angle) * swell], axis=1))

    def circle(self, x: float, y: float, r: float) -> None:
        self.oval(x, y, r, r)

    def dot(self, x: float, y: float, r: float) -> None:
        """Draw a filled spot: a small spiral."""
        self.strokes.append(SPIRAL * r + (x, y))

    def scribble(self, x: np.ndarray, y: np.ndarray) -> None:
        """Draw a stroke through exactly these points."""
        self.strokes.append(np.stack([x, y], axis=1))

    def _add(self, weights: np.ndarray, points: tuple[Point, ...]) -> None:
        self.strokes.append(weights @ (np.array(points) + self.rng.normal(0, self.jitter, (len(points), 2))))

    def render(self, size: int) -> np.ndarray:
        """The drawing as grey levels, uint8 (size, size), dark on light: warped, placed, inked and photographed."""
        strokes = self._varied()
        counts = [len(stroke) for stroke in strokes]
        points = self._warped(np.concatenate(strokes), np.array(counts))
        canvas = size * SUPERSAMPLING
        low, high = points.min(0), points.max(0)
        extent = canvas * self.between(0.8, 0.95) / max(float((high - low).max()), 1e-6)
        free = canvas - (high - low) * extent
        offset = free * np.clip(0.5 + self.rng.normal(0, 0.12, 2), 0.1, 0.9)
        points = (points - low) * extent + offset
        image = Image.new("L", (canvas, canvas), 0)
        draw = ImageDraw.Draw(image)
        width = max(round(canvas / 28 * self.between(0.7, 2.0)), 1)
        r = (width - 1) / 2
        for stroke in np.split(points, np.cumsum(counts)[:-1]):
            draw.line(stroke.ravel().tolist(), fill=255, width=width)
        if width > 2:  # round joints: without them, thick lines show notches where they bend
            for x, y in points[_bends(points)].tolist():
                draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
        return self._photographed(np.asarray(image.reduce(SUPERSAMPLING), dtype=np.float32) / 255)

    def _varied(self) -> list[np.ndarray]:
        """The strokes; in some drawings with every line drawn twice, in some without a few."""
        rng, strokes = self.rng, self.strokes
        if self.chance(0.12):
            strokes = strokes + [s * rng.normal(1, 0.03) + rng.normal(0, 0.03, 2) for s in strokes if len(s) > 6]
        omitted = 0.08 if self.chance(0.3) else 0.0
        return [s for s in strokes if not self.chance(omitted)] or strokes

    def _warped(self, points: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The points mirrored or not, turned, stretched, sheared and bent together; each stroke trembles by itself."""
        rng = self.rng
        points = points - points.mean(0)
        if self.chance(0.25):
            points = points * np.array([-1.0, 1.0])
        turn, lean, stretch = rng.normal(0, 0.08), rng.normal(0, 0.06), math.exp(rng.normal(0, 0.05))
        c, s = math.cos(turn), math.sin(turn)
        points = points @ np.array([[c * stretch, s], [-s + lean, c / stretch]])
        for _ in range(2):
            k, phase, bend = rng.normal(0, 1.6, 2), rng.random() * TURN, rng.normal(0, 0.05, 2)
            points = points + np.sin(points @ k + phase)[:, None] * bend
        along = np.arange(len(points)) * self.between(0.4, 1.0)
        phases = np.repeat(rng.random((2, len(counts))) * TURN, counts, axis=1)
        return points + np.sin(along + phases).T * (self.jitter * self.between(0.2, 0.6))

    def _photographed(self, ink: np.ndarray) -> np.ndarray:
        """Grey levels: half of the drawings are clean, as on a screen; half have paper, light and ink that vary."""
        size = len(ink)
        if self.chance(0.5):
            return np.rint(255 * (1 - ink)).astype(np.uint8)
        paper, dark = self.between(190, 255), self.between(0, 90)
        slope = self.rng.normal(0, 12, 2) @ np.stack(np.meshgrid(*[np.linspace(-1, 1, size)] * 2)).reshape(2, -1)
        light = paper + slope.reshape(size, size) + self.rng.normal(0, self.between(1, 7), (size, size))
        return np.rint(np.clip(light * (1 - ink) + dark * ink, 0, 255)).astype(np.uint8)


def _bends(points: np.ndarray) -> np.ndarray:
    """Mask of the points where a path turns by more than 20 degrees, which includes the ends of strokes."""
    steps = np.diff(points, axis=0)
    ahead, behind = steps[1:], steps[:-1]
    straight = (ahead * behind).sum(1) > math.cos(math.radians(20)) * np.hypot(*ahead.T) * np.hypot(*behind.T)
    return np.flatnonzero(np.concatenate([[True], ~straight, [True]]))


@lru_cache(maxsize=64)
def _between_points(n: int) -> np.ndarray:
    """Weights (m, n) that turn n corners into points on the straight pieces between them."""
    at = np.linspace(0, n - 1, 5 * (n - 1) + 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(n)))


@lru_cache(maxsize=64)
def _spline(n: int, closed: bool) -> np.ndarray:
    """Weights (m, n) of a Catmull-Rom spline: a curve through n points, six steps from each to the next."""
    pieces = n if closed else n - 1
    rows = [_catmull_rom(n, i, t, closed) for i in range(pieces) for t in np.arange(6) / 6]
    return np.array([*rows, _catmull_rom(n, pieces - 1, 1.0, closed)])


def _catmull_rom(n: int, i: int, t: float, closed: bool) -> np.ndarray:
    weights = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3)
    row = np.zeros(n)
    for offset, weight in zip((-1, 0, 1, 2), weights, strict=True):
        j = i + offset
        row[j % n if closed else min(max(j, 0), n - 1)] += weight / 2
    return row
