"""Ducks as people doodle them, of many kinds, drawn facing left around the origin; the pen varies them."""

import numpy as np

from hillstart.data.pen import Pen


def duck(pen: Pen) -> None:
    """Draw a duck: from the side in parts or in one line, a rubber duck, a head alone, or from the front."""
    kind = pen.between(0, 1)
    if kind < 0.48:
        _duck_in_parts(pen)
    elif kind < 0.78:
        _duck_in_one_line(pen)
    elif kind < 0.9:
        _duck_head(pen)
    else:
        _duck_from_front(pen)


def _duck_in_parts(pen: Pen) -> None:
    rubber = pen.chance(0.35)
    long, tall = pen.between(0.8, 1.05), pen.between(0.42, 0.62)
    r = pen.between(0.42, 0.58) if rubber else pen.between(0.26, 0.4)
    x, y = -long * pen.between(0.45, 0.95), -tall - r * pen.between(0.5, 0.9)
    neck = 0.0 if rubber or pen.chance(0.4) else pen.between(0.15, 0.7)
    y -= neck
    pen.oval(x, y, r, r * pen.between(0.85, 1.15))
    if neck:
        thick = r * pen.between(0.35, 0.6)
        pen.curve((x - thick, y + r * 0.8), (x - thick, y + r + neck * 0.7), (x - thick * 1.6, -tall * 0.5))
        pen.curve((x + thick, y + r * 0.8), (x + thick, y + r + neck * 0.6), (x + thick * 2.5, -tall * 0.85))
    _bill(pen, x - r * 0.92, y + r * pen.between(-0.1, 0.3), r)
    if pen.chance(0.92):
        _eye(pen, x - r * pen.between(0.1, 0.4), y - r * pen.between(0.1, 0.35), r * pen.between(0.1, 0.22))
    if pen.chance(0.5):
        pen.oval(0, 0, long, tall)
        if pen.chance(0.65):
            pen.line(
                (long * 0.85, -tall * 0.5), (long * pen.between(1.2, 1.5), -tall * pen.between(0.5, 1.3)), (long, 0)
            )
    else:
        tip = (long * pen.between(1.1, 1.35), -tall * pen.between(0.6, 1.5))
        pen.curve((x + r * 0.5, -tall * 0.8), (0.2 * long, -tall * 0.6), tip, (long * 0.8, tall * 0.6), (0, tall))
        pen.curve((0, tall), (-long * 0.8, tall * 0.8), (-long, 0), (x - r * 0.3, -tall * 0.9))
    _wing(pen, long * pen.between(0, 0.25), 0, long * pen.between(0.3, 0.5), tall * pen.between(0.35, 0.6))
    _water_or_legs(pen, long, tall)


def _duck_in_one_line(pen: Pen) -> None:
    r, neck, long = pen.between(0.28, 0.5), pen.between(0.0, 0.6), pen.between(0.85, 1.2)
    x, y, tail = -long * pen.between(0.4, 0.75), -0.8 - neck, pen.between(0.1, 0.7)
    pen.curve(
        (x - r, y + r * 0.3),
        (x - r * 0.7, y - r * 0.7),
        (x, y - r),
        (x + r * 0.9, y - r * 0.2),
        (x + r * 0.6, y + r + neck * 0.6),
        (x + r * 1.4, -0.25),
        (long * 0.6, -0.25),
        (long * 1.1, -tail),
        (long, 0.2),
        (long * 0.5, 0.6),
        (-long * 0.5, 0.6),
        (-long, 0.15),
        (x - r * 0.9, -0.3),
        (x - r * 0.5, y + r),
        (x - r, y + r * 0.4),
    )
    _bill(pen, x - r * 0.95, y + r * pen.between(0, 0.3), r)
    if pen.chance(0.88):
        _eye(pen, x - r * pen.between(0.1, 0.35), y - r * pen.between(0.15, 0.4), r * pen.between(0.08, 0.2))
    _wing(pen, long * pen.between(0, 0.2), 0.1, long * pen.between(0.3, 0.5), pen.between(0.15, 0.3))
    _water_or_legs(pen, long, 0.6)


def _duck_head(pen: Pen) -> None:
    tall = pen.between(0.85, 1.15)
    if pen.chance(0.6):
        pen.oval(0, 0, 1, tall)
        if pen.chance(0.6):
            low = tall + pen.between(0.5, 1.0)
            pen.curve((-0.45, tall * 0.85), (-0.4, low - 0.2), (-0.6, low))
            pen.curve((0.5, tall * 0.8), (0.5, low - 0.2), (0.75, low))
    else:
        low = tall + pen.between(0.4, 1.0)
        pen.curve(
            (-0.5, low), (-0.6, 0.8), (-0.95, 0.3), (-0.8, -0.6), (0, -tall), (0.8, -0.6), (0.85, 0.4), (0.7, low)
        )
    _bill(pen, -0.92, pen.between(0, 0.35), pen.between(0.7, 1.1))
    if pen.chance(0.95):
        _eye(pen, -pen.between(0.1, 0.45), -pen.between(0.15, 0.5), pen.between(0.08, 0.22))
    if pen.chance(0.3):
        for lean in (-0.25, 0.0, 0.25):
            pen.curve((0.1, -tall), (0.15 + lean * 0.6, -tall - 0.2), (0.2 + lean, -tall - 0.4))


def _duck_from_front(pen: Pen) -> None:
    r = pen.between(0.55, 0.85)
    pen.oval(0, 0, r, r * pen.between(0.9, 1.15))
    apart = r * pen.between(0.3, 0.5)
    size = r * pen.between(0.08, 0.2)
    for side in (-1, 1):
        _eye(pen, side * apart, -r * pen.between(0.2, 0.35), size)
    wide, thick, low = r * pen.between(0.4, 0.75), r * pen.between(0.15, 0.28), r * pen.between(0.2, 0.35)
    pen.oval(0, low, wide, thick)
    if pen.chance(0.6):
        pen.curve((-wide, low), (0, low + thick * 0.3), (wide, low))
    if pen.chance(0.75):
        tall = pen.between(0.6, 1.0)
        body, middle = tall * pen.between(0.8, 1.2), r + tall * 0.85
        pen.oval(0, middle, body, tall)
        for side in (-1, 1):
            if pen.chance(0.7):
                pen.curve(
                    (side * body * 0.8, middle - tall * 0.6),
                    (side * body * 1.4, middle),
                    (side * body, middle + tall * 0.3),
                )
            foot = (side * body * 0.4, middle + tall)
            if pen.chance(0.75):
                pen.line(foot, (foot[0] - 0.2, foot[1] + 0.25), (foot[0] + 0.2, foot[1] + 0.25), foot)


def _bill(pen: Pen, x: float, y: float, r: float) -> None:
    if not pen.chance(0.96):
        return
    long, thick, kind = r * pen.between(0.5, 1.2), r * pen.between(0.15, 0.35), pen.between(0, 1)
    if kind < 0.3:  # a wedge
        pen.line((x, y - thick), (x - long, y + thick * pen.between(-0.6, 0.6)), (x, y + thick))
    elif kind < 0.65:  # flat and round, perhaps with the line between its halves
        pen.curve(
            (x, y - thick),
            (x - long * 0.6, y - thick * 0.5),
            (x - long, y),
            (x - long * 0.6, y + thick),
            (x, y + thick),
        )
        if pen.chance(0.5):
            pen.line((x, y), (x - long * 0.8, y + thick * 0.2))
    elif kind < 0.85:  # open
        for side in (-1, 1):
            pen.curve(
                (x, y + side * thick), (x - long * 0.7, y + side * thick * 1.3), (x - long, y + side * thick * 1.7)
            )
            pen.line((x - long, y + side * thick * 1.7), (x, y))
    else:
        pen.oval(x - long / 2, y, long / 2, thick)


def _eye(pen: Pen, x: float, y: float, size: float) -> None:
    if pen.chance(0.6):
        pen.dot(x, y, size * 0.7)
    else:
        pen.circle(x, y, size)


def _wing(pen: Pen, x: float, y: float, long: float, tall: float) -> None:
    kind = pen.between(0, 1)
    if kind < 0.45:
        pen.curve(
            (x - long, y - tall * 0.3),
            (x - long * 0.4, y + tall),
            (x + long * 0.5, y + tall * 0.6),
            (x + long, y - tall * 0.6),
        )
    elif kind < 0.65:
        pen.curve((x - long, y), (x, y - tall), (x + long, y - tall * 0.2), (x, y + tall), closed=True)
    elif kind < 0.78:
        for k in range(3):
            pen.curve(
                (x + long * (k - 1) * 0.7, y - tall / 2),
                (x + long * (k - 0.7) * 0.7, y + tall / 2),
                (x + long * (k - 0.3) * 0.7, y - tall / 2),
            )


def _water_or_legs(pen: Pen, long: float, tall: float) -> None:
    """Draw water, legs, or nothing."""
    kind = pen.between(0, 1)
    if kind < 0.3:
        for row in range(int(pen.between(1, 3))):
            t = np.linspace(-1.5, 1.5, 40) * pen.between(0.8, 1.1)
            wave = 0.08 * np.sin(t * pen.between(5, 9))
            pen.scribble(t * long, tall * pen.between(0.5, 0.9) + 0.25 * row + wave)
    elif kind < 0.75:
        foot = tall + pen.between(0.25, 0.6)
        for x in (-0.2 * long, 0.2 * long):
            pen.line((x, tall * 0.95), (x, foot), (x - pen.between(0.15, 0.35), foot + pen.between(0, 0.1)))
            if pen.chance(0.4):
                pen.line((x, foot), (x - 0.1, foot + 0.15))
