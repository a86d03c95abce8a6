"""Joins musubi's datasets and prompt files into one group, in which each batch names its teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from danceopd_ext.toolkits.hosted.route_balance import balanced
from danceopd_ext.toolkits.musubi.dataset_routes import check_routes_have_data

#: the entry of a batch for the number of its route, a plain int, which passes unchanged from worker to trainer
ROUTE = "danceopd_route"


class RoutedGroup(torch.utils.data.Dataset):
    """A group of datasets for musubi's trainer and collator, with routes drawn by weight.

    datasets: musubi's, or ours for prompts. routes: the route of each. order: (dataset, batch in it) for each batch
    of an epoch; datasets that are smaller than their share come up several times. It is pickled for the workers.
    """

    def __init__(self, datasets: Sequence[Any], routes: Sequence[int], order: Sequence[tuple[int, int]]):
        self.datasets, self.routes, self.order = list(datasets), list(routes), list(order)
        self.num_train_items = sum(dataset.num_train_items for dataset in datasets)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict[str, Any]:
        which, batch = self.order[index]
        return {**self.datasets[which][batch], ROUTE: self.routes[which]}

    def set_current_epoch(self, epoch: int) -> None:
        for dataset in self.datasets:
            dataset.set_current_epoch(epoch)

    def set_max_train_steps(self, max_train_steps: int) -> None:
        for dataset in self.datasets:
            dataset.set_max_train_steps(max_train_steps)


def routed_group(
    datasets: Sequence[Any], routes: Sequence[str], weights: Mapping[str, float], seed: int
) -> RoutedGroup:
    """Return the group of these datasets. routes: the teacher of each. weights: of every teacher.

    Raises UserError if a teacher with a weight has no data.
    """
    entries: dict[str, list[tuple[int, int]]] = {name: [] for name in weights}
    for which, (dataset, route) in enumerate(zip(datasets, routes, strict=True)):
        entries[route] += [(which, batch) for batch in range(len(dataset))]
    check_routes_have_data(weights, {name: len(batches) for name, batches in entries.items()})
    order = [entry for repeated in balanced(entries, weights, seed).values() for entry in repeated]
    names = list(weights)
    return RoutedGroup(datasets, [names.index(route) for route in routes], order)
