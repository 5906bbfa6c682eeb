"""Pictures that stay on disk: who is on them, what they show, and batches of them as the model receives them."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import keras
import numpy as np

from keras_explain.datasets.preprocessing import Preprocessing
from keras_explain.datasets.roi import Roi
from keras_explain.errors import ExplanationWarning, InputError, MissingExtra, check_counts


@dataclass(frozen=True)
class Case:
    """One picture of a data set.

    Args:
        id: its name, which no other case has.
        label: its class in the data set.
        read: gives its pixels (h, w) as they are in the file.
        roi: gives the regions of its findings in these pixels; None where nothing is known of them.
        group: whose picture it is, or of which lesion: cases of one group never fall on both sides of a split. "" where
            the data set does not tell.
    """

    id: str
    label: int
    read: Callable[[], np.ndarray]
    roi: Callable[[], Roi] | None = None
    group: str = ""


class Stream(keras.utils.PyDataset):
    """Batches (images, labels) of cases for `model.fit`, read when they are needed.

    As validation data of `ExplanationCallback` or `kx.select`, a stream also tells names, regions and preprocessing of
    its images; there is no need to give them again.

    Args:
        cases: the pictures.
        preprocessing: what is done to each.
        batch_size: images in a batch.
        class_map: dict from data-set class to model output, `labels` are model outputs; classes that are absent or map
            to None are left out. None is every class as it is numbered.
        shuffle: in another order in every epoch; names follow it.
        seed: of the order.
        options: of `keras.utils.PyDataset`, such as workers.

    Raises:
        InputError: no cases, several of one name, a class map that leaves none.

    Examples:
        >>> import numpy as np
        >>> from keras_explain.datasets.cases import Case, Stream
        >>> from keras_explain.datasets.preprocessing import Preprocessing
        >>> cases = [Case(f"img{i}", label=i, read=lambda: np.zeros((8, 8), "uint8")) for i in range(5)]
        >>> stream = Stream(cases, Preprocessing(size=(4, 4)), class_map={1: 0, 3: 1})
        >>> stream.ids, stream[0][0].shape, stream[0][1].tolist()
        (('img1', 'img3'), (2, 4, 4, 3), [0, 1])
    """

    def __init__(
        self,
        cases: Sequence[Case],
        preprocessing: Preprocessing,
        batch_size: int = 32,
        class_map: Mapping[int, int] | None = None,
        shuffle: bool = False,
        seed: int = 0,
        **options: Any,
    ):
        super().__init__(**options)
        check_counts(1, batch_size=batch_size)
        if class_map is not None:
            if not isinstance(class_map, Mapping):
                raise InputError(f"class_map must be a dict; got {type(class_map).__name__}.")
            class_map = {label: output for label, output in class_map.items() if output is not None}
        cases = list(cases)
        repeated = [name for name, count in Counter(case.id for case in cases).items() if count > 1]
        if repeated:
            raise InputError(f"Every case needs a name of its own; {repeated[0]!r} stands for several.")
        self.cases = [case for case in cases if class_map is None or case.label in class_map]
        if not self.cases:
            classes = sorted({case.label for case in cases})
            raise InputError(f"There are no cases to read: of the classes {classes}, class_map keeps none.")
        self.preprocessing, self.batch_size = preprocessing, batch_size
        self.class_map, self.shuffled = class_map, shuffle
        self._random = np.random.default_rng(seed)
        self._order = np.arange(len(self.cases))
        self.on_epoch_end()

    @property
    def labels(self) -> np.ndarray:
        """(n,) the label of every image in the order of the cases: model outputs where there is a class map."""
        return np.array([case.label if self.class_map is None else self.class_map[case.label] for case in self.cases])

    @property
    def ids(self) -> tuple[str, ...]:
        """Names of the images, in the order of the batches."""
        return tuple(self.cases[i].id for i in self._order)

    def roi(self, name: str) -> np.ndarray | None:
        """(height, width) bool of an image by its name; None where nothing is known, `InputError` for another name."""
        case = next((case for case in self.cases if case.id == name), None)
        if case is None:
            raise InputError(f"There is no case {name!r}.")
        return None if case.roi is None else self.preprocessing.region(case.roi()).mask()

    @property
    def class_weight(self) -> dict[int, float]:
        """For `model.fit`: n / (classes * images of the class), so that every class weighs alike."""
        counts = Counter(self.labels.tolist())
        return {label: len(self.cases) / (len(counts) * count) for label, count in sorted(counts.items())}

    def __len__(self) -> int:
        return -(-len(self.cases) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rows = self._order[index * self.batch_size : (index + 1) * self.batch_size]
        return np.stack([self.image(i) for i in rows]), self.labels[rows]

    def image(self, i: int) -> np.ndarray:
        """(height, width, channels) of case i as the model receives it."""
        try:
            return self.preprocessing(self.cases[i].read())
        except InputError as error:
            raise InputError(f"{self.cases[i].id}: {error}") from error

    def on_epoch_end(self) -> None:
        """Shuffle, if asked to."""
        if self.shuffled:
            self._random.shuffle(self._order)


def split(cases: Sequence[Case], share: float = 0.2, seed: int = 0) -> tuple[list[Case], list[Case]]:
    """Cases to train on and cases held out, no patient or lesion on both sides, classes in like proportion.

    Args:
        cases: those of one group stay together; those without stand for themselves.
        share: of the cases to hold out, about: the nearest fraction with a denominator of 10 at most.
        seed: of the choice.

    Warns:
        ExplanationWarning: cases with a finding that do not tell whose they are. Data sets hold several crops of one
            lesion, and the held-out accuracy is too good where they fall on both sides.

    Raises:
        InputError: a share outside 0.1 to 0.5, or fewer groups than parts.

    Examples:
        >>> from keras_explain.datasets.cases import Case, split
        >>> cases = [Case(f"{p}-{i}", p % 2, lambda: None, group=f"P{p}") for p in range(20) for i in range(3)]
        >>> train, held_out = split(cases)
        >>> len(train), len(held_out), {case.group for case in train} & {case.group for case in held_out}
        (48, 12, set())
    """
    try:
        from sklearn.model_selection import StratifiedGroupKFold
    except ImportError as error:
        raise MissingExtra("split needs scikit-learn: pip install scikit-learn") from error
    if not 0.1 <= share <= 0.5:
        raise InputError(f"share must be 0.1 to 0.5; got {share}.")
    unknown = sum(not case.group and case.label > 0 for case in cases)
    if unknown:
        warnings.warn(
            f"{unknown} cases with a finding do not tell whose they are: crops of one lesion can fall on both sides, "
            "and the held-out accuracy is then too good. Name the patient in Case(group=...), or test on others.",
            ExplanationWarning,
            stacklevel=2,
        )
    groups = [case.group or f"alone {i}" for i, case in enumerate(cases)]
    taken, parts = Fraction(share).limit_denominator(10).as_integer_ratio()
    if len(set(groups)) < parts:
        raise InputError(f"share={share} needs {parts} patients or lesions at least; got {len(set(groups))}.")
    folds = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
    labels = [case.label for case in cases]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")
        try:
            folded = [part for _, part in folds.split(np.zeros(len(cases)), labels, groups)]
        except ValueError as error:
            raise InputError(f"share={share} cannot be held out of these {len(cases)} cases: {error}") from error
    held_out = set(np.concatenate(folded[: max(1, taken)]).tolist())
    kept, apart = ([case for i, case in enumerate(cases) if (i in held_out) == out] for out in (False, True))
    return kept, apart
