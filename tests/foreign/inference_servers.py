"""Real inference servers on loopback, for tests/foreign/fleet.py and benches/peers/fleet.py: NVIDIA's Triton out of PyPI's nvidia-pytriton (a real
tritonserver that has no GPU here, and of its backends the Python one), and MLServer. Each serves the model that `vtagd model export-triton` has
written, in ONNX Runtime on the CPU. setup_fleet.sh makes their environments.
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLACE = pathlib.Path(os.environ.get("FOREIGN") or ROOT / ".setup/foreign").resolve()
VTAGD = pathlib.Path(os.environ.get("VTAGD") or ROOT / "target/release/vtagd").resolve()
# How long anything may take on a slow machine. What is waited for comes much sooner.
PATIENCE = 120

TRITON_MODEL = """
import os
import time
import onnxruntime
import numpy
import triton_python_backend_utils as pb

class TritonPythonModel:
    def initialize(self, args):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("SERVER_THREADS", "2"))
        file = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0]
        # As vtagd does on a CPU: so many pictures a run as it is fastest with, whose data fits into the caches.
        sides = [8, *self.input.shape[1:]]
        pictures = numpy.zeros(sides, numpy.uint8 if "uint8" in self.input.type else numpy.float32)
        times = {size: min(self.timed(pictures, size) for _ in range(3)) for size in (1, 2, 4, 8)}
        self.together = min(times, key=times.get)

    def timed(self, pictures, size):
        self.together, began = size, time.perf_counter()
        self.run(pictures)
        return time.perf_counter() - began

    def run(self, pictures):
        parts = [pictures[at:at + self.together] for at in range(0, len(pictures), self.together)]
        rows = [self.session.run(["image_embeds"], {self.input.name: part})[0] for part in parts]
        return rows[0] if len(rows) == 1 else numpy.concatenate(rows)

    def execute(self, requests):
        pictures = [pb.get_input_tensor_by_name(request, self.input.name).as_numpy() for request in requests]
        rows = self.run(pictures[0] if len(pictures) == 1 else numpy.concatenate(pictures))
        answers, at = [], 0
        for part in pictures:
            answers.append(pb.InferenceResponse([pb.Tensor("image_embeds", rows[at:at + len(part)])]))
            at += len(part)
        return answers
"""

MLSERVER_MODEL = """
import os
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

class Vision(MLModel):
    async def load(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("SERVER_THREADS", "2"))
        file = os.path.join(os.path.dirname(os.path.abspath(__file__)), "model.onnx")
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload):
        pictures = NumpyCodec.decode_input(payload.inputs[0])
        rows = self.session.run(["image_embeds"], {payload.inputs[0].name: pictures})[0]
        output = NumpyCodec.encode_output("image_embeds", rows)
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=[output])
"""


def free_ports(count):
    """So many ports that nobody has now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def until(what, condition, patience=PATIENCE):
    """Waits for a condition; its value."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    sys.exit(f"FAILED: waited {patience} s in vain: {what}")


def fetch(url):
    """JSON or text of a URL on loopback; `None` where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.read().decode()
    except (OSError, urllib.error.HTTPError):
        return None


def export(model, repository, name, kind="u8"):
    """A model repository with one model, by vtagd itself."""
    command = [VTAGD, "model", "export-triton", model, "--out", repository, "--name", name, "--input", kind, "--max-batch", "32"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return repository / name


class Server:
    """A server that ends with this script."""

    def __init__(self, log):
        self.log, self.process = log, None

    def launch(self, command, environment):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        until(f"the server is ready, see {self.log}", self.ready)

    def ready(self):
        if self.process.poll() is not None:
            sys.exit(f"FAILED: the server ended with {self.process.returncode}: {self.log.read_text(errors='replace')[-3000:]}")
        return fetch(f"http://127.0.0.1:{self.http}/v2/health/ready") is not None

    def stop(self):
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Triton(Server):
    """tritonserver over the repository of `vtagd model export-triton`, whose backend is exchanged for the one that there is."""

    def __init__(self, folder, model, name="vision", kind="u8", threads=2):
        super().__init__(folder / "triton.log")
        self.folder, self.name, self.threads = folder, name, threads
        self.http, self.grpc, self.metrics = free_ports(3)
        exported = export(model, folder / "repository", name, kind)
        config = (exported / "config.pbtxt").read_text()
        config = config.replace('backend: "onnxruntime"', 'backend: "python"').replace('default_model_filename: "model.onnx"\n', "")
        (exported / "config.pbtxt").write_text(config + "instance_group [ { kind: KIND_CPU count: 1 } ]\n")
        (exported / "1/model.py").write_text(TRITON_MODEL)

    def start(self):
        site = next((PLACE / "triton/lib").glob("python3*/site-packages"))
        home = site / "pytriton/tritonserver"
        backends = self.folder / "backends"
        if not backends.exists():
            shutil.copytree(home / "backends/python", backends / "python")
            # It looks for the stub of this Python beside the backend.
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            stubs = [stub for stub in (home / "python_backend_stubs").glob(f"{version}/*stub*")]
            for stub in stubs:
                shutil.copy(stub, backends / "python/triton_python_backend_stub")
        libraries = [str(site / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR") or "", os.environ.get("LD_LIBRARY_PATH", "")]
        environment = {
            **os.environ,
            "PYTHONPATH": str(site),
            "LD_LIBRARY_PATH": ":".join(part for part in libraries if part),
            "PATH": f"{PLACE / 'triton/bin'}:{os.environ['PATH']}",
            "SERVER_THREADS": str(self.threads),
        }
        command = [home / "bin/tritonserver", f"--model-repository={self.folder / 'repository'}", f"--backend-directory={backends}"]
        for kind, port in (("http", self.http), ("grpc", self.grpc), ("metrics", self.metrics)):
            command += [f"--{kind}-port={port}", f"--{kind}-address=127.0.0.1"]
        self.launch(command, environment)
        return self

    def statistics(self):
        """Pictures and runs of the model so far, and the seconds that they took."""
        stats = json.loads(fetch(f"http://127.0.0.1:{self.http}/v2/models/{self.name}/stats"))["model_stats"][0]
        seconds = sum(int(size["compute_infer"]["ns"]) for size in stats["batch_stats"]) / 1e9
        return int(stats["inference_count"]), int(stats["execution_count"]), seconds


class MlServer(Server):
    """MLServer with a runtime of a few lines around the same file. It knows no binary tensors over HTTP."""

    def __init__(self, folder, model, name="vision", side=224):
        super().__init__(folder / "mlserver.log")
        self.folder, self.name = folder / "mlserver", name
        self.http, self.grpc, metrics = free_ports(3)
        exported = export(model, folder / "for-mlserver", name)
        self.folder.mkdir()
        shutil.copy(exported / "1/model.onnx", self.folder)
        (self.folder / "runtime.py").write_text(MLSERVER_MODEL)
        settings = {"host": "127.0.0.1", "http_port": self.http, "grpc_port": self.grpc, "metrics_port": metrics, "parallel_workers": 0}
        (self.folder / "settings.json").write_text(json.dumps(settings))
        inputs = [{"name": "pictures", "datatype": "UINT8", "shape": [-1, side, side, 3]}]
        outputs = [{"name": "image_embeds", "datatype": "FP32", "shape": [-1, -1]}]
        model = {"name": name, "implementation": "runtime.Vision", "inputs": inputs, "outputs": outputs}
        (self.folder / "model-settings.json").write_text(json.dumps(model))

    def start(self):
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        self.launch([PLACE / "mlserver/bin/mlserver", "start", self.folder], environment)
        return self


class Box:
    """A daemon with a configuration, and what it says."""

    def __init__(self, folder, config):
        folder.mkdir(parents=True)
        (self.port,) = free_ports(1)
        self.folder, self.events = folder, folder / "events.jsonl"
        text = f"{config}\nsinks: [ {{ type: jsonl, path: {self.events} }} ]\napi: {{ listen: 127.0.0.1:{self.port} }}\n"
        text += f"outbox: {{ path: {folder / 'outbox.db'} }}\nstate: {{ path: {folder / 'state'} }}\n"
        (folder / "vtagd.yaml").write_text(text)
        environment = {**os.environ, "VTAGD_CACHE": str(folder.parent / "cache"), "VTAGD_LOG": "info"}
        with (folder / "log").open("wb") as log:
            command = [VTAGD, "run", "-c", folder / "vtagd.yaml"]
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT)

    def get(self, path):
        return fetch(f"http://127.0.0.1:{self.port}{path}")

    def readiness(self):
        """What /readyz says, whatever its status is."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as answer:
            return json.load(answer)
        except OSError:
            return {}

    def metric(self, name, labels=""):
        """The sum of all series of a metric that have these labels."""
        lines = (self.get("/metrics") or "").splitlines()
        mine = [line for line in lines if line.startswith((f"{name} ", f"{name}{{")) and labels in line]
        return sum(float(line.rsplit(" ", 1)[1]) for line in mine)

    def cpu(self):
        """Seconds of processor time so far."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def wait(self):
        """Its exit code, once its streams have ended."""
        return self.process.wait(PATIENCE * 5)

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)

    def told(self):
        """Its events so far."""
        if not self.events.exists():
            return []
        return [json.loads(line) for line in self.events.read_text().splitlines()]
