"""The house: what is imported where, what is public, what the wheel holds, and that the written examples run."""

import ast
import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import keras_explain as kx
import keras_explain.callbacks
from tests.conftest import BACKEND

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "keras_explain"
MODULES = sorted(m.name for m in pkgutil.walk_packages([str(PACKAGE)], "keras_explain."))

OTHER_BACKENDS = {f"keras_explain.gradients._{name}" for name in ("tensorflow", "jax", "torch") if name != BACKEND}

# What each room may import of the package; callbacks, cli, demo and engine sit on top.
ROOMS = {
    "errors": set(),
    "activations": set(),
    "observer": {"gradients"},
    "records": {"errors"},
    "outputs": {"activations", "errors"},
    "rules": {"activations", "errors"},
    "gradients": {"activations", "errors", "outputs", "rules", "gradients"},
    "batches": {"errors"},
    "regions": {"batches", "errors"},
    "selection": {"batches", "errors", "records", "regions", "outputs", "observer", "gradients"},
    "confirmation": {"batches", "errors", "records", "observer", "gradients", "selection"},
    "explainers": {
        "activations",
        "errors",
        "records",
        "rules",
        "observer",
        "outputs",
        "gradients",
        "selection",
        "explainers",
        "verdicts",
    },
    "metrics": {"errors", "records", "observer", "outputs", "gradients", "explainers", "metrics"},
    "verdicts": {"records"},
    "words": {"records"},
    "figures": {"errors", "records", "verdicts", "words", "figures"},
    "report": {"errors", "records", "verdicts", "words", "figures", "report"},
    "comparison": {"errors", "metrics", "records", "report", "words"},
    "tracking": {"errors", "report", "tracking"},
    "model_files": {"errors"},
    "datasets": {"errors", "selection", "datasets"},
}
# The one room that may name each heavy library.
OWNERS = {
    "tensorflow": {"gradients", "datasets"},
    "jax": {"gradients"},
    "torch": {"gradients"},
    "tf_keras_vis": {"explainers"},
    "mlflow": {"tracking", "mlflow_evaluator"},
    "matplotlib": {"figures"},
    "lime": {"explainers"},
    "shap": {"records"},
    "skimage": {"explainers", "metrics", "datasets"},
    "sklearn": {"metrics", "datasets"},
    "tqdm": {"callbacks", "cli", "sharded"},
    "ray": {"on_ray"},
    "pyarrow": {"sharded"},
    "pandas": {"sharded"},
    "PIL": {"tracking", "datasets", "report"},
    "jinja2": {"report"},
    "pydicom": {"datasets"},
    "h5py": {"model_files"},
}


# Beside the owners: what old model files call themselves, and the library that knows TensorFlow alone.
BACKENDS = {"tensorflow", "jax", "torch", "tf", "jnp"}
MAY_NAME_BACKENDS = {"model_files.py", "score_cam.py"}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module == "keras_explain":
                yield from (f"keras_explain.{alias.name}" for alias in node.names)
            else:
                yield node.module


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_rooms_import_one_way():
    for path in PACKAGE.rglob("*.py"):
        room = room_of(path)
        if room in ROOMS:
            used = {name.split(".")[1] for name in imports(path) if name.startswith("keras_explain.")}
            assert used <= ROOMS[room], f"{path.name} imports {used - ROOMS[room]}"


def test_each_heavy_library_has_one_owner():
    for path in PACKAGE.rglob("*.py"):
        for name in imports(path):
            library = name.split(".")[0]
            assert room_of(path) in OWNERS.get(library, {room_of(path)}), f"{path.name} imports {library}"


def test_only_the_gradients_know_the_backend():
    for path in PACKAGE.rglob("*.py"):
        if room_of(path) in ("gradients", "datasets") or path.name in MAY_NAME_BACKENDS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            named = getattr(node, "id", None) or getattr(node, "attr", None) or getattr(node, "value", None)
            assert not (isinstance(named, str) and named.lower() in BACKENDS), (
                f"{path.name}:{node.lineno} names {named}"
            )


@pytest.mark.parametrize("library", ["tensorflow", "jax", "torch"])
def test_keras_without_its_backend_says_what_to_install(library):
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {library!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
try:
    import keras_explain
except ImportError as error:
    print(type(error).__name__, error)
"""
    environment = {**os.environ, "KERAS_BACKEND": library}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert f"MissingExtra Keras runs on {library}, which is not installed: pip install " in done.stdout
    assert f"'keras-explain-callbacks[{library}]'" in done.stdout


def test_importing_the_package_loads_nothing_heavy():
    code = """
import sys, time, keras
before = set(sys.modules)
start = time.perf_counter()
import keras_explain, keras_explain.callbacks, keras_explain.datasets, keras_explain.report
print(time.perf_counter() - start)
heavy = {"matplotlib", "mlflow", "lime", "shap", "skimage", "sklearn", "scipy", "tqdm", "tf_keras_vis", "PIL", "click"}
heavy |= {"jinja2", "pydicom"}
print(sorted(heavy & (set(sys.modules) - before)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, loaded = done.stdout.splitlines()
    assert float(seconds) < 1
    assert loaded == "[]"


def test_a_missing_library_says_what_to_install():
    code = """
import sys, numpy as np, keras
for library in ("mlflow", "shap", "lime", "skimage", "sklearn"):
    sys.modules[library] = None
import keras_explain as kx
model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2, activation="softmax")])
calls = [
    lambda: kx.MlflowTracker(),
    lambda: kx.explain(model, np.ones((1, 8, 8, 1)), "vanilla").to_shap(),
    lambda: kx.explain(model, np.ones((1, 8, 8, 1)), kx.Lime(4, lambda x: np.zeros((8, 8)))),
    lambda: kx.explain(model, np.ones((1, 8, 8, 1)), kx.Lime(4)),
    lambda: kx.metrics.auprc(np.ones((1, 8, 8, 1)), np.ones((1, 8, 8))),
]
for call in calls:
    try:
        call()
    except kx.MissingExtra as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    asked = re.findall(r"pip install ([\w-]+)", done.stdout)
    assert asked == ["mlflow", "shap", "lime", "scikit-image", "scikit-learn"]


def test_public_names_are_those_listed():
    public = {name for name in vars(kx) if not name.startswith("_")}
    rooms = {m.split(".")[1] for m in MODULES} - {"figures", "metrics"}
    assert kx.__all__ == sorted(public - rooms)
    assert keras_explain.callbacks.__all__ == ["ExplanationCallback", "TopConfidence"]


def test_the_folder_of_callbacks_is_shown_at_the_top_level():
    assert (ROOT / "callbacks").is_symlink()
    assert (ROOT / "callbacks").resolve() == (PACKAGE / "callbacks").resolve()


@pytest.mark.parametrize("name", [name for name in MODULES if name not in OTHER_BACKENDS])
def test_docstring_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.failed == 0


def test_every_public_object_has_a_runnable_example():
    for name in kx.__all__:
        thing = getattr(kx, name)
        documented = isinstance(thing, type) and issubclass(thing, Exception | UserWarning)
        if callable(thing) and not documented and name not in ("Explainer", "Tracker", "save_round", "load_round"):
            assert ">>>" in (thing.__doc__ or ""), name


def blocks(path):
    return re.findall(r"```python\n(.*?)```", (ROOT / path).read_text(), re.S)


DOCUMENTS = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
SHORT = [path for path in DOCUMENTS if path.startswith("docs/methods/")]  # which share a process


@pytest.mark.parametrize(
    "paths", [*([path] for path in DOCUMENTS if path not in SHORT), SHORT], ids=lambda paths: paths[0]
)
def test_written_examples_run(paths, tmp_path):
    """All Python blocks of a page, one after the other in one process and an empty folder."""
    pages = {path: code for path in paths if (code := "\n".join(blocks(path)))}
    if pages:
        run = f"for path, code in {pages!r}.items(): exec(compile(code, path, 'exec'), {{'__name__': '__main__'}})"
        done = subprocess.run([sys.executable, "-c", run], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]


def test_the_documentation_is_built_without_a_broken_link(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("changelog", "gpu", "results"):  # what is kept elsewhere is shown, not copied
        assert (ROOT / "docs" / f"{name}.md").is_symlink()
    reference = (tmp_path / "site" / "reference" / "explainers" / "index.html").read_text("utf-8")
    assert "Sundararajan" in reference  # docstrings are on the page
    named = {path.stem for path in (ROOT / "docs" / "methods").glob("*.md")} - {"index"}
    listed = (ROOT / "docs" / "methods" / "index.md").read_text("utf-8")
    assert all(f"`{method}`" in listed for method in kx.explainers.METHODS)
    assert all(f"({name}.md)" in listed for name in named)


def test_the_built_wheel_works_in_an_empty_environment(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--sdist", "--outdir", tmp_path / "dist", ROOT]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("keras_explain_callbacks-*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-compile", f"{wheel}[{BACKEND}]"]
    subprocess.run(install, check=True, capture_output=True)
    code = """
import keras, numpy as np, keras_explain as kx
from keras_explain.callbacks import ExplanationCallback
model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2, activation="softmax")])
import importlib.util, sys
print([name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)])
print(kx.__file__, kx.explain(model, np.ones((1, 8, 8, 1)), "integrated_gradients").values.shape)
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert str(tmp_path / "env") in done.stdout
    assert "(1, 8, 8, 1)" in done.stdout
    assert f"['{BACKEND}']" in done.stdout  # and no other backend
    command = tmp_path / "env" / "bin" / "keras-explain"
    assert "demo" in subprocess.run([command, "--help"], capture_output=True, text=True, check=True).stdout
