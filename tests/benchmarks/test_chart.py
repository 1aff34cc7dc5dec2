"""The chart of speed says what the bench has measured."""

from benchmarks.chart import NAMES, chart
from hillstart.report.charts import alone


def test_each_contestant_has_its_ratio_at_each_batch() -> None:
    rates = {name: 2e6 / (1 + 7 * k) for k, name in enumerate(NAMES)}
    rows = [
        {"contestant": name, "sizes": sizes, "batch": batch, "net_samples_per_second": rate * f, "low": 0, "high": 3e6}
        for sizes in ([784, 30, 10], [3072, 64, 2])
        for batch, f in ((10, 1), (32, 2))
        for name, rate in rates.items()
    ]
    drawn = alone(chart({"rows": rows, "machine": "a machine", "versions": {"torch": "2.14"}}))
    for text in (*NAMES.values(), "mini-batches of 32", "2.00 million", "4.00 million", "8.0 x", "43 x", "[784, 30"):
        assert text in drawn, text
    assert "3072" not in drawn
