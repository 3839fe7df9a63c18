"""What a node's /metrics says, as numbers."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.cluster import Node

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Scrape:
    """One scrape of a node."""

    def __init__(self, node: Node) -> None:
        status, self.text = node.request("GET", "/metrics")
        assert status == 200
        self.samples: Samples = {
            (sample.name.removeprefix("fastkv_"), frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(self.text.decode())
            for sample in family.samples
        }

    def __getitem__(self, name: str) -> float:
        """The value of a metric without labels."""
        return self.samples[name, frozenset()]

    def of(self, name: str, **labels: str) -> float:
        """The value of the sample with exactly these labels; 0 where there is none."""
        return self.samples.get((name, frozenset(labels.items())), 0.0)

    def labelled(self, name: str, label: str) -> dict[str, float]:
        """The values of a metric by its one label."""
        return {dict(labels)[label]: value for (found, labels), value in self.samples.items() if found == name}
