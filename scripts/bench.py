"""How fast, here: `python scripts/bench.py [--device cpu|cuda] [--only SECTION ...] [--json FILE] [--quick]`."""

from hillstart.doorway import bench

if __name__ == "__main__":
    bench()
