"""Fold a forest's preprocessing into the thresholds of its trees: one operator is left, on the numbers as they come.

A tree compares a scaled number, rounded to float32, with a threshold. Of all numbers, those up to some largest float64
go left. With that one as the threshold, the tree compares the number itself and decides the same. It is found by
bisection, through the pipeline's own arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pandas as pd
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.pipeline import Pipeline

from app.fast.graph import Compiled, CompileError, Layout
from penguins.inference import Record, to_frame
from penguins.schema import CATEGORIES, EXAMPLE, NUMBERS

PARTS = 16
CHUNK_ROWS = 10_000
SIGN = np.int64(-(2**63))


def fold(pipeline: Pipeline, fills: dict[str, Any]) -> Compiled:
    """Return the folded forest.

    Raises
    ------
    CompileError
        If the last step is not a forest, or the steps before it mix features.
    """
    forest = pipeline[-1]
    if not isinstance(forest, RandomForestClassifier | ExtraTreesClassifier):
        raise CompileError(f"a {type(forest).__name__} is not folded")
    layout = _layout(pipeline)
    return Compiled(
        _graph(forest, _thresholds(pipeline, layout), len(layout.row)), fills, layout, len(forest.estimators_)
    )


def _prepared(pipeline: Pipeline, records: Sequence[Record] | pd.DataFrame) -> np.ndarray:
    return np.asarray(pipeline[:-1].transform(to_frame(records)), np.float64)


def _layout(pipeline: Pipeline) -> Layout:
    """Find out which columns of the forest's input depend on which feature, by changing one feature at a time."""
    (row,) = _prepared(pipeline, [EXAMPLE])
    taken: set[int] = set()

    def columns_of(name: str, values: Sequence[Any]) -> tuple[tuple[int, ...], np.ndarray]:
        rows = _prepared(pipeline, [{**EXAMPLE, name: value} for value in values])
        columns = tuple(np.flatnonzero((rows != row).any(axis=0)).tolist())
        if taken.intersection(columns):
            raise CompileError(f"{name} shares a column of the forest's input with another feature")
        taken.update(columns)
        return columns, rows[:, columns]

    numbers: dict[str, int] = {}
    for number in NUMBERS:
        columns, _ = columns_of(number.name, (number.minimum, number.maximum))
        if len(columns) != 1:
            raise CompileError(f"{number.name} is {len(columns)} columns of the forest's input")
        numbers[number.name] = columns[0]
    categories = {}
    for category in CATEGORIES:
        values = [*category.values, *([] if category.required else [None])]
        columns, codes = columns_of(category.name, values)
        categories[category.name] = columns, dict(zip(values, map(tuple, codes.tolist()), strict=True))
    return Layout(tuple(row.tolist()), numbers, categories)


def _thresholds(pipeline: Pipeline, layout: Layout) -> list[np.ndarray]:
    """Return each tree's thresholds, shape (n_nodes,): of a number's nodes, the largest value that goes left.

    That is within the range that the schema accepts; beyond it, no value is ever compared.
    """
    trees = [tree.tree_ for tree in pipeline[-1].estimators_]
    thresholds = [tree.threshold.copy() for tree in trees]
    distinct = {
        name: np.unique(np.concatenate([tree.threshold[tree.feature == column] for tree in trees]))
        for name, column in layout.numbers.items()
    }
    longest = max(map(len, distinct.values()), default=0)
    if not longest:
        return thresholds
    names = list(layout.numbers)
    columns = list(layout.numbers.values())
    # One row for each threshold, a column for each number; the shorter ones are filled up.
    wanted = np.stack([np.resize(distinct[n], longest) if len(distinct[n]) else np.zeros(longest) for n in names], 1)

    def goes_left(values: np.ndarray) -> np.ndarray:
        records = pd.DataFrame({**EXAMPLE, **dict(zip(names, values.reshape(-1, len(names)).T, strict=True))})
        return _prepared(pipeline, records)[:, columns].astype(np.float32).reshape(values.shape) <= wanted

    # Cut by place among all float64, not by value: there each step leaves an equal part. The parts are many, because
    # the pipeline takes about as long for a thousand rows as for ten.
    low = np.broadcast_to(_place(np.array([c.minimum for c in NUMBERS], float)), wanted.shape).copy()
    high = np.broadcast_to(_place(np.array([c.maximum for c in NUMBERS], float)), wanted.shape).copy()
    none, every = ~goes_left(_value(low)), goes_left(_value(high))
    parts = min(max(CHUNK_ROWS // longest, 2), PARTS)
    cuts = np.arange(1, parts)[:, None, None]
    while (low + 1 < high).any():
        step = np.maximum(high // parts - low // parts, 1)
        left = goes_left(_value(np.minimum(low + cuts * step, high))).sum(axis=0)
        low, high = low + left * step, np.where(left < parts - 1, low + (left + 1) * step, high)
    folded = np.where(every, np.inf, np.where(none, -np.inf, _value(low)))
    for place, (name, column) in enumerate(layout.numbers.items()):
        for tree, own in zip(trees, thresholds, strict=True):
            nodes = tree.feature == column
            own[nodes] = folded[np.searchsorted(distinct[name], tree.threshold[nodes]), place]
    return thresholds


def _place(values: np.ndarray) -> np.ndarray:
    """Return each float64's place among all of them: integers in the same order."""
    bits = values.view(np.int64)
    return np.where(bits < 0, SIGN - bits, bits)


def _value(places: np.ndarray) -> np.ndarray:
    return np.where(places < 0, SIGN - places, places).view(np.float64)


def _graph(forest: Any, thresholds: list[np.ndarray], width: int) -> bytes:
    """Return a graph of one operator. Its scores are votes, summed up tree by tree as scikit-learn does it.

    Divided by the number of trees they are the probabilities; the division is the reader's, for a sum of whole votes is
    exact in float32, which the graph answers in.
    """
    nodes: dict[str, list[np.ndarray]] = {}
    votes: dict[str, list[np.ndarray]] = {}
    for number, (tree, own) in enumerate(zip(forest.estimators_, thresholds, strict=True)):
        leaf = tree.tree_.children_left < 0
        count = len(leaf)
        for name, values in (
            ("nodes_treeids", np.full(count, number)),
            ("nodes_nodeids", np.arange(count)),
            ("nodes_featureids", np.where(leaf, 0, tree.tree_.feature)),
            ("nodes_modes", np.where(leaf, "LEAF", "BRANCH_LEQ")),
            ("nodes_truenodeids", np.where(leaf, 0, tree.tree_.children_left)),
            ("nodes_falsenodeids", np.where(leaf, 0, tree.tree_.children_right)),
            ("nodes_values_as_tensor", np.where(leaf, 0, own)),
        ):
            nodes.setdefault(name, []).append(values)
        shares = tree.tree_.value[:, 0, :] * leaf[:, None]
        at, of = np.nonzero(shares)
        for name, values in (
            ("class_treeids", np.full(len(at), number)),
            ("class_nodeids", at),
            ("class_ids", of),
            ("class_weights_as_tensor", shares[at, of]),
        ):
            votes.setdefault(name, []).append(values)
    # Of two classes, ONNX Runtime takes the leaves' weights for something else. A third gets no vote.
    classes = max(len(forest.classes_), 3)
    attributes: dict[str, Any] = {}
    for name, pieces in (nodes | votes).items():
        values = np.concatenate(pieces)
        attributes[name] = numpy_helper.from_array(values, name) if "tensor" in name else values.tolist()
    operator = helper.make_node(
        "TreeEnsembleClassifier",
        ["features"],
        ["label", "votes"],
        domain="ai.onnx.ml",
        classlabels_int64s=list(range(classes)),
        post_transform="NONE",
        **attributes,
    )
    graph = helper.make_graph(
        [operator],
        "forest",
        [helper.make_tensor_value_info("features", TensorProto.DOUBLE, [None, width])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
            helper.make_tensor_value_info("votes", TensorProto.FLOAT, [None, classes]),
        ],
    )
    opsets = [helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 15)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()
