"""Lions as people doodle them, of many kinds, drawn facing left around the origin; the pen varies them."""

import math

import numpy as np

from hillstart.data.pen import TURN, Pen


def lion(pen: Pen) -> None:
    """Draw a face with a mane, or a whole lion, from the side or sitting."""
    kind = pen.between(0, 1)
    if kind < 0.6:
        _lion_head(pen, 0, 0, 1.0)
    elif kind < 0.87:
        _lion_from_side(pen)
    else:
        _lion_sitting(pen)


def _lion_head(pen: Pen, x: float, y: float, r: float) -> None:
    rx, ry = r * pen.between(0.5, 0.75), r * pen.between(0.5, 0.75)
    has_mane = pen.chance(0.93)
    if has_mane:
        _mane(pen, x, y, rx, ry, r)
    if pen.chance(0.92) or not has_mane:
        pen.oval(x, y, rx, ry)
    if pen.chance(0.5 if has_mane else 0.95):
        _ears(pen, x, y, rx, ry, has_mane)
    if pen.chance(0.92):
        _lion_face(pen, x, y, rx, ry, r)


def _mane(pen: Pen, x: float, y: float, rx: float, ry: float, r: float) -> None:
    n = int(pen.between(9, 22))
    angle = TURN * (np.arange(n) / n + pen.between(0, 1)) + pen.rng.normal(0, 0.1, n)
    far = r * pen.between(0.9, 1.05) * (1 + pen.rng.normal(0, 0.08, n))
    cos, sin, kind = np.cos(angle), np.sin(angle), pen.between(0, 1)
    if kind < 0.27:  # rays
        near = pen.between(0.95, 1.1)
        for i in range(n):
            root = (x + rx * near * cos[i], y + ry * near * sin[i])
            pen.line(root, (x + far[i] * cos[i], y + far[i] * sin[i]))
    elif kind < 0.55:  # spikes
        half = angle + TURN / n / 2
        inner = pen.between(1.0, 1.3)
        px = np.stack([x + far * cos, x + rx * inner * np.cos(half)], 1).ravel()
        py = np.stack([y + far * sin, y + ry * inner * np.sin(half)], 1).ravel()
        pen.line(*zip(px.tolist(), py.tolist(), strict=True), (float(px[0]), float(py[0])))
    elif kind < 0.8:  # curls or petals all around
        t = np.linspace(0, 1, 6 * n)
        bumps = np.abs(np.sin(t * n * math.pi)) if pen.chance(0.6) else 0.5 + 0.5 * np.sin(t * n * TURN)
        reach = r * (pen.between(0.7, 0.88) + pen.between(0.12, 0.3) * bumps)
        around = TURN * (t * pen.between(0.85, 1.02) + pen.between(0, 1))
        pen.scribble(x + reach * np.cos(around), y + reach * np.sin(around))
    elif kind < 0.92:  # scribbled loops
        t = np.linspace(0, 1, 90)
        around = TURN * (t + pen.between(0, 1))
        loop, turns = r * pen.between(0.12, 0.25), int(pen.between(9, 20))
        middle = (1 + 0.5 * (rx + ry) / r) / 2 * r
        pen.scribble(
            x + middle * np.cos(around) + loop * np.cos(around * turns),
            y + middle * np.sin(around) + loop * np.sin(around * turns),
        )
    else:  # a plain ring, perhaps with a few hairs
        pen.oval(x, y, r, r * pen.between(0.9, 1.1))
        for i in range(0, n, int(pen.between(2, 6))):
            pen.line((x + rx * cos[i], y + ry * sin[i]), (x + far[i] * cos[i], y + far[i] * sin[i]))


def _ears(pen: Pen, x: float, y: float, rx: float, ry: float, has_mane: bool) -> None:
    out, size = pen.between(0.9, 1.15), pen.between(0.2, 0.36) * rx / 0.6 * (0.8 if has_mane else 1.0)
    for side in (-1, 1):
        ex, ey = x + side * rx * out * 0.72, y - ry * out * 0.75
        pen.oval(ex, ey, size * 0.6, size * 0.6, start=0.375 + side * 0.125, sweep=0.75)


def _lion_face(pen: Pen, x: float, y: float, rx: float, ry: float, r: float) -> None:
    apart, up = rx * pen.between(0.3, 0.48), ry * pen.between(0.15, 0.4)
    _eyes(pen, x, y - up, apart, r * pen.between(0.04, 0.1))
    nose, low = r * pen.between(0.07, 0.15), y + ry * pen.between(0.0, 0.2)
    kind = pen.between(0, 1)
    if kind < 0.55:
        pen.line((x - nose, low), (x + nose, low), (x, low + nose), (x - nose, low))
    elif kind < 0.9:
        pen.dot(x, low, nose * 0.8)
    mouth = ry * pen.between(0.3, 0.45)
    if pen.chance(0.6):
        pen.line((x, low + nose), (x, low + mouth))
        for side in (-1, 1):
            pen.curve(
                (x, low + mouth), (x + side * apart * 0.5, low + mouth * 1.2), (x + side * apart, low + mouth * 0.8)
            )
    elif pen.chance(0.8):
        pen.curve((x - apart, low + mouth * 0.8), (x, low + mouth * 1.3), (x + apart, low + mouth * 0.8))
    if pen.chance(0.45):
        for side in (-1, 1):
            for tilt in (-0.12, 0.02, 0.16)[: int(pen.between(2, 3.99))]:
                reach = rx * pen.between(0.8, 1.3)
                pen.line(
                    (x + side * nose * 1.6, low + nose + tilt * r * 0.4), (x + side * reach, low + nose + tilt * r)
                )


def _eyes(pen: Pen, x: float, y: float, apart: float, size: float) -> None:
    kind = pen.between(0, 1)
    for side in (-1, 1):
        if kind < 0.55:
            pen.dot(x + side * apart, y, size * 0.7)
        elif kind < 0.9:
            pen.oval(x + side * apart, y, size, size * 1.2)
        else:
            pen.line((x + side * apart, y - size), (x + side * apart, y + size))


def _lion_from_side(pen: Pen) -> None:
    long, tall = pen.between(0.8, 1.3), pen.between(0.35, 0.6)
    r = pen.between(0.55, 0.95)
    x, y = -long - r * pen.between(0.1, 0.5), -tall * pen.between(0.1, 1.1)
    _lion_head(pen, x, y, r)
    kind = pen.between(0, 1)
    if kind < 0.45:
        pen.oval(0, 0, long, tall)
    elif kind < 0.8:
        pen.curve((-long * 0.8, -tall * 0.8), (0, -tall), (long * 0.9, -tall * 0.8), (long, 0.2 * tall))
        pen.line((-long * 0.7, tall), (long * 0.9, tall))
    else:
        pen.line((-long, -tall), (long, -tall), (long, tall), (-long, tall), (-long, -tall))
    _legs(pen, long, tall)
    if pen.chance(0.88):
        out, up = long + pen.between(0.4, 0.9), -tall * pen.between(0.6, 2.6)
        pen.curve(
            (long * 0.95, -tall * 0.4), (long + 0.25, -tall * pen.between(-0.5, 0.8)), (out - 0.1, up + 0.3), (out, up)
        )
        if pen.chance(0.7):
            tuft = pen.dot if pen.chance(0.4) else pen.circle
            tuft(out, up - 0.08, pen.between(0.08, 0.17))


def _legs(pen: Pen, long: float, tall: float) -> None:
    foot, thick = tall + pen.between(0.35, 0.8), pen.between(0.1, 0.2)
    lines = pen.chance(0.45)
    for at in (-0.75, -0.4, 0.4, 0.75):
        x = at * long
        if lines:
            pen.line((x, tall * 0.85), (x, foot))
        elif pen.chance(0.95):
            pen.line((x - thick, tall * 0.8), (x - thick, foot), (x + thick, foot), (x + thick, tall * 0.8))


def _lion_sitting(pen: Pen) -> None:
    _lion_head(pen, 0, 0, pen.between(0.8, 1.0))
    wide, low = pen.between(0.45, 0.8), pen.between(1.7, 2.2)
    pen.curve((-0.4, 0.8), (-wide, low * 0.75), (-wide, low))
    pen.curve((0.4, 0.8), (wide, low * 0.75), (wide, low))
    pen.line((-wide, low), (wide, low))
    for side in (-0.25, 0.25):
        if pen.chance(0.8):
            pen.line((side, low * 0.7), (side, low))
    if pen.chance(0.7):
        pen.curve((wide, low * 0.9), (wide + 0.5, low * 0.8), (wide + 0.5, low * 0.55), (wide + 0.75, low * 0.45))
