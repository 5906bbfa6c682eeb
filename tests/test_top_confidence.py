"""The images that a metric has found inside Keras' own validation pass."""

import contextlib
import dataclasses
import json

import keras
import numpy as np
import pytest
from keras import layers

import keras_explain as kx
from keras_explain.batches import batches_at
from keras_explain.callbacks import ExplanationCallback, TopConfidence
from keras_explain.callbacks.top_confidence import top_confidences
from keras_explain.confirmation import select_found
from keras_explain.errors import ExplanationWarning
from tests.conftest import outputs, tensorflow_only

RANDOM = np.random.default_rng(3)
X = RANDOM.random((90, 6, 6, 1), "float32")
Y = (X[:, :3].mean(axis=(1, 2, 3)) > X[:, 3:].mean(axis=(1, 2, 3))).astype(int) + (X[:, 0, 0, 0] > 0.8)


def build(head="softmax", units=3, metrics=(), loss="sparse_categorical_crossentropy"):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6, 6, 1)), layers.Flatten(), layers.Dense(units, head)])
    model.compile("adam", loss, metrics=list(metrics))
    return model


def literal(labels, probability, k, outputs, multi_label=False):
    """The k surest correct images of each class, by sorting all of them."""
    best = {}
    for label, output in outputs.items():
        rows = []
        for i, p in enumerate(probability):
            here = labels[i][label] if np.ndim(labels) == 2 else labels[i] == label
            right = p[output] > 0.5 if multi_label else p.argmax() == output
            if here and right:
                rows.append((i, float(p[output])))
        best[label] = sorted(rows, key=lambda row: -row[1])[:k]
    return best


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def found_in(metric, labels, outputs, batch=7):
    metric.reset_state()
    for start in range(0, len(outputs), batch):
        metric.update_state(labels[start : start + batch], outputs[start : start + batch])
    return metric.found()


def assert_same(found, expected):
    assert found.best.keys() == expected.keys()
    for label, rows in expected.items():
        assert [position for position, _ in found.best[label]] == [position for position, _ in rows]
        np.testing.assert_allclose([1 - doubt for _, doubt in found.best[label]], [p for _, p in rows], rtol=1e-5)


@pytest.mark.parametrize("k", [1, 4, 200])
@pytest.mark.parametrize("form", ["numbers", "column", "one-hot", "logits", "mapped"])
def test_the_running_best_are_those_of_sorting_everything(k, form, random):
    z = random.normal(0, 2, (60, 4)).astype("float32")
    p, labels = softmax(z), random.integers(0, 4, 60)
    outputs = {0: 2, 1: None, 3: 0} if form == "mapped" else {c: c for c in range(4)}
    kept = {label: output for label, output in outputs.items() if output is not None}
    given = {"column": labels[:, None], "one-hot": np.eye(4, dtype="float32")[labels]}.get(form, labels)
    metric = TopConfidence(k, outputs if form == "mapped" else None, from_logits=form == "logits")
    found = found_in(metric, given, z if form == "logits" else p)
    expected = literal(labels, p, k, kept)
    assert_same(found, expected)
    judged = np.isin(labels, list(kept))
    right = sum(p[i].argmax() == kept[labels[i]] for i in np.flatnonzero(judged))
    assert (found.k, found.seen, found.judged, found.right) == (k, 60, judged.sum(), right)
    largest = [rows[0][1] for rows in expected.values() if rows]
    assert float(metric.result()) == pytest.approx(np.mean(largest), rel=1e-5)


def test_independent_sigmoids_and_a_single_one(random):
    z = random.normal(0, 2, (50, 3)).astype("float32")
    p, labels = 1 / (1 + np.exp(-z)), random.integers(0, 2, (50, 3))
    for logits in (False, True):
        metric = TopConfidence(3, multi_label=True, from_logits=logits)
        found = found_in(metric, labels, z if logits else p)
        assert_same(found, literal(labels, p, 3, {0: 0, 1: 1, 2: 2}, multi_label=True))
        single, answers = TopConfidence(3, from_logits=logits), labels[:, 0]
        both = np.stack([1 - p[:, 0], p[:, 0]], axis=1)
        assert_same(found_in(single, answers, (z if logits else p)[:, :1]), literal(answers, both, 3, {0: 0, 1: 1}))


@pytest.mark.parametrize("from_logits", [False, True])
def test_images_are_told_apart_where_probabilities_are_rounded_to_one(from_logits):
    z = np.array([[30, 0, 0], [40, 0, 0], [35, 0, 0], [0, 28, 0], [0, 33, 0]], "float32")
    given, labels = z if from_logits else softmax(z.astype("float64")).astype("float32"), np.array([0, 0, 0, 1, 1])
    found = found_in(TopConfidence(2, from_logits=from_logits), labels, given)
    assert [position for position, _ in found.best[0]] == [1, 2]
    assert [position for position, _ in found.best[1]] == [4, 3]
    model = keras.Sequential([keras.Input((3,)), layers.Dense(3, "softmax", use_bias=False)])
    model.set_weights([np.eye(3)])
    assert kx.select(model, (z, labels), images_per_class=2, value_range=(0, 255)).ids == ("1", "2", "4", "3")
    both = np.concatenate([-z[:, :1], z[:, 1:2]], axis=1)[[0, 1, 2, 3, 4]].sum(axis=1, keepdims=True)
    single = found_in(TopConfidence(5, from_logits=True), np.array([0, 0, 0, 1, 1]), both)
    assert [position for position, _ in single.best[0]] == [1, 2, 0]
    assert [position for position, _ in single.best[1]] == [4, 3]


def test_nothing_right_and_nothing_seen():
    metric = TopConfidence()
    assert float(metric.result()) == 0.0
    assert metric.found().seen == 0
    metric.update_state(np.array([0, 0]), np.array([[0.25, 0.75], [np.nan, np.nan]], "float32"))
    assert metric.found().best == {0: [], 1: []}
    assert float(metric.result()) == 0.0
    metric.update_state(np.array([1]), np.array([[0.25, 0.75]]))
    assert metric.found().best == {0: [], 1: [(2, 0.25)]}
    metric.reset_state()
    assert metric.found().best == {0: [], 1: []}
    assert metric.found().seen == 0


def test_it_is_saved_with_the_model(tmp_path):
    model = build(metrics=[TopConfidence(2, {0: 0, 2: 1, 5: None})])
    model.fit(X, Y, epochs=15, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    scores = [one.evaluate(X, Y, verbose=0, return_dict=True)["top_confidence"] for one in (model, loaded)]
    assert scores[0] == scores[1] > 0
    config = TopConfidence(2, {0: 0, 2: 1, 5: None}).get_config()
    assert top_confidences(loaded)[0].get_config() == config
    assert TopConfidence.from_config(json.loads(json.dumps(config))).get_config() == config


@pytest.mark.parametrize(
    ("options", "labels", "outputs", "message"),
    [
        ({"k": 0}, None, None, "k must be a whole number, at least 1; got 0"),
        ({"class_map": lambda label: label}, None, None, "class_map of TopConfidence must be a dict; got function"),
        ({"class_map": {}}, None, None, "class_map is empty"),
        ({"class_map": {0: 5}}, [0], [[0.5, 0.5]], "class_map sends class 0 to output 5; the model has outputs 0 to 1"),
        ({"class_map": {4: 1}}, [[1, 0, 0]], [[0.5, 0.5]], "class_map names class 4; labels have 3 columns"),
        ({"multi_label": True}, [0], [[0.5, 0.5]], r"needs labels \(n,\) or \(n, classes\); got shape \(1,\)"),
        ({}, [[[0]]], [[0.5, 0.5]], r"needs labels \(n,\) or \(n, classes\); got shape \(1, 1, 1\)"),
        ({}, [0], [[[0.5, 0.5]]], r"needs outputs \(n, classes\); got shape \(1, 1, 2\)"),
    ],
)
def test_what_cannot_work_is_said(options, labels, outputs, message):
    with pytest.raises(kx.InputError, match=message):
        TopConfidence(**options).update_state(np.array(labels), np.array(outputs, "float32"))


class Batches(keras.utils.PyDataset):
    """Counts the batches that are read."""

    def __init__(self, shuffled=False, size=16):
        super().__init__()
        self.shuffled, self.size, self.read = shuffled, size, 0
        self.order = np.arange(len(X))

    def __len__(self):
        return -(-len(X) // self.size)

    def __getitem__(self, i):
        self.read += 1
        if self.shuffled and i == 0:
            self.order = np.random.default_rng(self.read).permutation(len(X))
        rows = self.order[i * self.size : (i + 1) * self.size]
        return X[rows], Y[rows]


class Passes(Exception):
    """Raised where the data are evaluated by a pass of the callback's own."""


@pytest.fixture
def no_own_pass(monkeypatch):
    def refused(*arguments, **options):
        raise Passes

    monkeypatch.setattr(kx.callbacks.explanation, "select", refused)


def run(folder, model, data, **options):
    fitting = {key: options.pop(key) for key in ("epochs", "validation_freq", "validation_steps") if key in options}
    labels, batching = options.pop("labels", Y), {}
    if not isinstance(data, keras.utils.PyDataset):
        batching = {"validation_batch_size": options.pop("batch", 32)}
    options = {"tracker": kx.DirectoryTracker(folder), "on_error": "raise", "frequency": 1, **options}
    callback = ExplanationCallback(options.pop("validation_data", data), ["vanilla"], **options)
    fitting = {"epochs": 2, "verbose": 0, "validation_data": data, **batching, **fitting}
    model.fit(X, labels, callbacks=[callback], **fitting)
    return callback


@pytest.mark.parametrize("source", ["arrays", "PyDataset", "loader"])
def test_a_round_takes_its_images_from_the_metric(tmp_path, no_own_pass, source):
    class Loader:
        def __iter__(self):
            return iter([(X[i : i + 20], Y[i : i + 20]) for i in range(0, 90, 20)])

    data = {"arrays": (X, Y), "PyDataset": Batches(), "loader": Loader()}[source]
    model = build(metrics=["accuracy", TopConfidence(3)])
    callback = run(
        tmp_path,
        model,
        (X, Y) if source == "loader" else data,
        validation_data=data,
        images_per_class=2,
        background=9,
        class_names=["a", "b", "c"],
    )
    found = callback.latest.samples
    own = kx.select(model, data, images_per_class=2, background=9, class_names=["a", "b", "c"])
    for name in ("images", "targets", "labels", "background"):
        np.testing.assert_array_equal(getattr(found, name), getattr(own, name), name)
    np.testing.assert_allclose(found.confidence, own.confidence, rtol=1e-6)
    assert (found.ids, found.missing, found.class_names) == (own.ids, own.missing, own.class_names)
    assert found.accuracy == pytest.approx(own.accuracy)
    read = np.concatenate([found.images, found.background])
    assert found.value_range == (read.min(), read.max())
    assert callback.latest.evaluations["selecting"] == len(found)


def test_only_the_batches_that_are_needed_are_read():
    data, model = Batches(size=2), build(metrics=[TopConfidence()])
    model.evaluate(data, verbose=0)
    metric, scorer = top_confidences(model)[0], kx.Scorer(model)
    before = data.read
    samples = select_found(scorer, data, metric.found())
    np.testing.assert_array_equal(samples.images, kx.select(model, (X, Y)).images)
    assert 1 <= data.read - before <= 1 + len(samples)  # the first for its size


def test_regions_ids_and_class_maps_are_kept(tmp_path, no_own_pass):
    class Named:
        def __iter__(self):
            names = [f"case {i}" for i in range(90)]
            return iter([(X[i : i + 25], Y[i : i + 25], None, np.array(names[i : i + 25])) for i in range(0, 90, 25)])

    masks = {f"case {i}": np.full((6, 6), i % 2) for i in range(90)}
    mapping = {0: 1, 2: 0}
    model = build(units=2, metrics=[TopConfidence(1, mapping)])
    model.compile("adam", lambda y, p: keras.ops.mean(p), metrics=[TopConfidence(1, mapping)])
    callback = run(tmp_path, model, (X, Y), validation_data=Named(), class_map=mapping, roi=masks)
    samples = callback.latest.samples
    for name, label, target, image, mask in zip(
        samples.ids, samples.labels, samples.targets[:, 0], samples.images, samples.roi, strict=True
    ):
        number = int(name.split()[1])
        assert (Y[number], mapping[Y[number]]) == (label, target)
        np.testing.assert_array_equal(image, X[number])
        assert mask.tolist() == masks[f"case {number}"].astype(bool).tolist()


def falls_back(tmp_path, message, data=None, metrics=None, **options):
    data = (X, Y) if data is None else data
    model = build(metrics=[TopConfidence(2)] if metrics is None else metrics)
    with pytest.warns(ExplanationWarning, match=message) as caught:
        callback = run(tmp_path, model, data, **options)
    assert len([w for w in caught if "TopConfidence" in str(w.message)]) == 1
    looked_at = len(callback.validation_data[0]) if isinstance(callback.validation_data, tuple) else len(X)
    assert callback.latest.evaluations["selecting"] >= looked_at  # beside those that were not confirmed
    return callback


def test_a_shuffled_pipeline_is_noticed_and_evaluated_again(tmp_path):
    data = Batches(shuffled=True)
    callback = falls_back(tmp_path, "are the data shuffled or augmented", data, epochs=3)
    for image, label, sure in zip(
        *(getattr(callback.latest.samples, n) for n in ("images", "labels", "confidence")), strict=True
    ):
        assert Y[np.flatnonzero((image == X).all(axis=(1, 2, 3)))].tolist() == [label]
        assert 0 < sure <= 1
    assert callback.latest.evaluations["selecting"] == 90


def test_other_data_or_settings_are_noticed(tmp_path):
    falls_back(tmp_path / "1", "it keeps k=2 images of each class; images_per_class=3", images_per_class=3)
    falls_back(tmp_path / "2", r"looks for the classes \[0, 1, 2\], and class_map for \[0, 1\]", class_map={0: 0, 1: 1})
    falls_back(
        tmp_path / "3", "has seen 90 images, of which validation_data have only 40", validation_data=(X[:40], Y[:40])
    )
    falls_back(
        tmp_path / "4", "is of another class or predicted otherwise", validation_data=(X[::-1].copy(), Y[::-1].copy())
    )
    falls_back(tmp_path / "5", "is of another class or predicted otherwise", validation_data=(X, np.roll(Y, 1)))


def test_without_validation_in_fit_the_data_are_evaluated_here(tmp_path):
    model = build(metrics=[TopConfidence()])
    callback = ExplanationCallback(
        (X, Y), ["vanilla"], frequency=1, tracker=kx.DirectoryTracker(tmp_path), on_error="raise"
    )
    model.fit(X[:40], Y[:40], epochs=2, verbose=0, callbacks=[callback])
    assert callback.latest.evaluations["selecting"] == 90
    model.fit(X[:40], Y[:40], epochs=3, verbose=0, callbacks=[callback], validation_data=(X, Y), validation_freq=2)
    assert callback.latest.evaluations["selecting"] == 90  # the third epoch was not validated
    model.fit(X[:40], Y[:40], epochs=2, verbose=0, callbacks=[callback], validation_data=(X, Y), validation_freq=2)
    assert callback.latest.evaluations["selecting"] <= 3


def test_a_part_of_the_validation_data_is_enough_only_if_asked_for(tmp_path):
    message = "it has seen 48 images of 90; candidates=48 takes these for enough"
    whole = falls_back(tmp_path / "1", message, (X, Y), validation_steps=3, batch=16)
    assert whole.latest.evaluations["selecting"] == 90
    model = build(metrics=[TopConfidence()])
    part = run(tmp_path / "2", model, (X, Y), validation_steps=3, batch=16, candidates=48)
    assert part.latest.evaluations["selecting"] <= 3
    assert all(int(name) < 48 for name in part.latest.samples.ids)
    in_part = (part.latest.samples.background[:, None] == X[None, :48]).all(axis=(2, 3, 4)).any(axis=1)
    assert in_part.all()
    assert len(in_part) == 48


def test_a_wrong_idea_of_the_outputs_is_noticed(tmp_path):
    falls_back(
        tmp_path / "1",
        "is its from_logits right|its outputs are no probabilities",
        metrics=[TopConfidence(from_logits=True)],
    )
    model = build("sigmoid", 3, [TopConfidence()], "binary_crossentropy")
    several = np.stack([Y == 0, Y >= 1, Y == 2], axis=1).astype("float32")
    with pytest.warns(ExplanationWarning, match="the outputs are independent: set its multi_label"):
        run(tmp_path / "2", model, (X, several), labels=several, epochs=1)
    model = build("sigmoid", 3, [TopConfidence(multi_label=True)], "binary_crossentropy")
    callback = run(tmp_path / "3", model, (X, several), labels=several)
    own = kx.select(model, (X, several), background=50)
    assert callback.latest.samples.ids == own.ids
    assert np.isnan(callback.latest.samples.accuracy)


def test_the_background_is_read_once(tmp_path, no_own_pass):
    data = Batches(size=2)
    reads = []
    counting = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: reads.append(data.read))
    model = build(metrics=[TopConfidence()])
    explain = ExplanationCallback(
        data, ["vanilla"], frequency=1, background=20, tracker=kx.DirectoryTracker(tmp_path), on_error="raise"
    )
    model.fit(X, Y, epochs=3, verbose=0, validation_data=(X, Y), callbacks=[explain, counting])
    first, *later = np.diff([0, *reads])
    assert first > 15
    assert max(later) <= 5
    np.testing.assert_array_equal(explain.latest.samples.background, kx.select(model, data, background=20).background)


@tensorflow_only
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_in_mixed_precision(tmp_path, no_own_pass, policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = build(metrics=[TopConfidence()])
    finally:
        keras.config.set_dtype_policy("float32")
    found = run(tmp_path, model, (X, Y)).latest.samples
    best = kx.select(model, (X, Y))
    assert found.labels.tolist() == best.labels.tolist()
    np.testing.assert_allclose(
        found.confidence, best.confidence, atol=0.01
    )  # the rounding of 16 bits may choose another


def test_a_seeded_training_is_the_same_with_it(tmp_path, no_own_pass):
    histories = []
    for with_callback in (False, True):
        model = build(metrics=[TopConfidence(), "accuracy"])
        callbacks = [ExplanationCallback((X, Y), ["vanilla"], frequency=1, tracker=kx.DirectoryTracker(tmp_path))]
        model.fit(X, Y, epochs=3, verbose=0, validation_data=(X, Y), callbacks=callbacks if with_callback else [])
        histories.append({name: values for name, values in model.history.history.items() if "explain" not in name})
    assert histories[0] == histories[1]
    assert histories[0]["val_top_confidence"][-1] > 0


def found_by(model, data=(X, Y)):
    """What a metric finds in an evaluation."""
    model.evaluate(*(data if isinstance(data, tuple) else (data,)), verbose=0)
    return top_confidences(model)[0].found()


def changed(found, change):
    """The same with other doubts."""
    best = {label: [(position, change(doubt)) for position, doubt in rows] for label, rows in found.best.items()}
    return dataclasses.replace(found, best=best)


def test_what_is_confirmed_and_what_is_not():
    model = build(metrics=[TopConfidence(2)])
    model.fit(X, Y, epochs=20, verbose=0)
    found, scorer = found_by(model), kx.Scorer(model)
    assert select_found(scorer, (X, Y), found).ids == kx.select(model, (X, Y)).ids
    select_found(scorer, (X, Y), changed(found, lambda doubt: doubt * 1.001))
    for change in (lambda doubt: doubt * 1.1, lambda doubt: doubt / 1.1, lambda doubt: 1e-9, lambda doubt: 0.0):
        with pytest.raises(kx.InputError, match="is predicted with"):
            select_found(scorer, (X, Y), changed(found, change))
    nothing = dataclasses.replace(found, best={0: [], 1: [], 2: []})
    with pytest.raises(kx.InputError, match="its outputs are no probabilities: set its from_logits"):
        select_found(scorer, (X, Y), nothing)
    right = np.argmax(outputs(model, X[:1])[0])
    with pytest.raises(kx.InputError, match="it has found no image that is predicted correctly, and the first one is"):
        select_found(scorer, (X, np.full(90, right)), dataclasses.replace(nothing, right=0))
    with pytest.raises(kx.InputError, match="roi has none of the ids of the images that were read"):
        select_found(scorer, (X, Y), found, roi={"patient 7": np.ones((6, 6))})
    with pytest.raises(kx.InputError, match="images lie in"):
        select_found(scorer, (X, Y), found, value_range=(0, 0.5))


def test_a_confident_network_does_not_hide_a_shuffle():
    """Any image of a class would do for one that is predicted with 1."""

    class Shuffled:
        passes = 0

        def __iter__(self):
            self.passes += 1
            order = np.random.default_rng(self.passes).permutation(90)
            return iter([(X[order], Y[order])])

    model = build(metrics=[TopConfidence()])
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([1000 * kernel, bias])
    found = found_by(model)
    with pytest.raises(kx.InputError, match="The data give other images first at every pass"):
        select_found(kx.Scorer(model), Shuffled(), found)


def test_batches_of_any_size_are_read_rightly_or_not_at_all():
    class Uneven(keras.utils.PyDataset):
        edges = (0, 20, 40, 41, 90)

        def __len__(self):
            return len(self.edges) - 1

        def __getitem__(self, i):
            part = slice(self.edges[i], self.edges[i + 1])
            return X[part], Y[part]

    class Longer(Uneven):
        edges = (0, 20, 40, 60, 90)

    class Empty(Uneven):
        edges = (0, 0, 45, 90)

    model = build(metrics=[TopConfidence(5)])
    for data in (Uneven(), Longer(), Empty()):
        read = {}
        with contextlib.suppress(kx.InputError):
            for positions, (images, labels, _) in batches_at(data, {3, 15, 38, 40, 59, 89}):
                read |= dict(zip(positions, zip(images, labels, strict=True), strict=True))
        for position, (image, label) in read.items():
            np.testing.assert_array_equal(image, X[position])
            assert label == Y[position]
        assert 89 not in read
    found = found_by(model)
    with pytest.raises(kx.InputError, match="Batch 2 has 1 images, the first one 20"):
        select_found(kx.Scorer(model), Uneven(), found, images_per_class=5, background=30)


def test_a_passing_disturbance_costs_one_round(tmp_path):
    class Disturbing(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_of_its_own"] = 1.0
            if epoch == 1:
                self.model.evaluate(X[::-1][:40], Y[::-1][:40], verbose=0)

    evaluated = []
    model = build(metrics=[TopConfidence()])
    explain = ExplanationCallback(
        (X, Y), ["vanilla"], frequency=1, tracker=kx.DirectoryTracker(tmp_path), on_error="raise"
    )
    watching = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: evaluated.append(explain.latest.evaluations["selecting"])
    )
    callbacks = [Disturbing(), explain, watching]
    with pytest.warns(ExplanationWarning, match="TopConfidence is not used"):
        model.fit(X, Y, epochs=4, verbose=0, validation_data=(X, Y), callbacks=callbacks)
    assert evaluated[1] >= 90
    assert max(evaluated[0], *evaluated[2:]) <= 3
    model.fit(X, Y, epochs=1, verbose=0, callbacks=callbacks)  # not validated, whatever the other callback writes
    assert evaluated[4] == 90


def test_of_several_outputs_the_explained_one_is_taken(tmp_path, no_own_pass):
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 1))
    flat = layers.Flatten()(image)
    heads = {name: layers.Dense(3, "softmax", name=name)(flat) for name in ("a", "b")}
    model = keras.Model(image, heads)
    losses = dict.fromkeys(heads, "sparse_categorical_crossentropy")
    model.compile("adam", losses, metrics={name: [TopConfidence()] for name in heads})
    explain = ExplanationCallback(
        (X, Y), ["vanilla"], frequency=1, output="b", tracker=kx.DirectoryTracker(tmp_path), on_error="raise"
    )
    targets = dict.fromkeys(heads, Y)
    model.fit(X, targets, epochs=2, verbose=0, validation_data=(X, targets), callbacks=[explain])
    assert explain.latest.samples.ids == kx.select(kx.Scorer(model, "b"), (X, Y)).ids


def test_reading_what_was_found_leaves_the_model_as_it_was():
    class Count(layers.Layer):
        def build(self, shape):
            self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def call(self, x):
            self.calls.assign_add(1)
            return x

    model = keras.Sequential([keras.Input((6, 6, 1)), Count(), layers.Flatten(), layers.Dense(3, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=[TopConfidence()])
    found = found_by(model)
    before = float(model.layers[0].calls.numpy())
    select_found(kx.Scorer(model), (X, Y), found)
    assert float(model.layers[0].calls.numpy()) == before > 0
