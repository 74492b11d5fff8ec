"""Where a tower runs: onnxruntime's execution providers, under short names."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnxruntime as ort

from tinyclip_edge.errors import DeviceError, did_you_mean

AUTO = "auto"
CPU = "cpu"
CPU_PROVIDER = "CPUExecutionProvider"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """An execution provider of onnxruntime."""

    name: str
    package: str  # that provides it
    hardware: str  # what it runs on
    plugin: str | None = None  # module of the plugin package, installed beside onnxruntime
    # Preferred in this order if no precision is named, before the bundle's default. GPUs have no
    # kernels for dynamic int8: most of its nodes would run on the CPU.
    precisions: tuple[str, ...] = ()
    automatic: bool = False  # whether "auto" tries it


_FLOAT = ("fp16", "fp32")

PROVIDERS: Mapping[str, Provider] = {
    CPU: Provider(name=CPU_PROVIDER, package="onnxruntime", hardware="any processor"),
    "cuda": Provider(
        name="CUDAExecutionProvider",
        package="onnxruntime-gpu",
        hardware="an NVIDIA GPU with its driver and CUDA's libraries",
        precisions=_FLOAT,
        automatic=True,
    ),
    "tensorrt": Provider(
        name="TensorrtExecutionProvider",
        package="onnxruntime-gpu",
        hardware="an NVIDIA GPU with TensorRT's libraries",
        precisions=_FLOAT,
    ),
    "migraphx": Provider(
        name="MIGraphXExecutionProvider",
        package="onnxruntime-rocm",
        hardware="an AMD GPU with ROCm",
        precisions=_FLOAT,
        automatic=True,
    ),
    "coreml": Provider(
        name="CoreMLExecutionProvider",
        package="onnxruntime on macOS",
        hardware="an Apple device",
        precisions=("fp32",),
        automatic=True,
    ),
    "directml": Provider(
        name="DmlExecutionProvider",
        package="onnxruntime-directml",
        hardware="Windows with a DirectX 12 GPU",
        precisions=_FLOAT,
        automatic=True,
    ),
    "openvino": Provider(
        name="OpenVINOExecutionProvider",
        package="onnxruntime-openvino, or onnxruntime-ep-openvino beside onnxruntime",
        hardware="an Intel processor, GPU or NPU",
        plugin="onnxruntime_ep_openvino",
        precisions=("fp32",),
    ),
    "qnn": Provider(
        name="QNNExecutionProvider",
        package="onnxruntime-qnn",
        hardware="a Snapdragon with Hexagon NPU",
        plugin="onnxruntime_qnn",
    ),
    "webgpu": Provider(
        name="WebGpuExecutionProvider",
        package="onnxruntime-ep-webgpu beside onnxruntime",
        hardware="a GPU with Vulkan, Metal or DirectX 12",
        plugin="onnxruntime_ep_webgpu",
        precisions=_FLOAT,
        automatic=True,
    ),
    "xnnpack": Provider(
        name="XnnpackExecutionProvider",
        package="a build of onnxruntime with XNNPACK",
        hardware="an ARM processor",
        precisions=("fp32",),
    ),
}

# Plugin libraries that this process has registered; onnxruntime refuses to register one twice.
_registered: set[str] = set()
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Device:
    """A provider by its short name, with the options that onnxruntime hands to it."""

    name: str = CPU
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise DeviceError for an unknown name or options that are not text or numbers."""
        if self.name not in PROVIDERS:
            known = [*PROVIDERS, AUTO]
            raise DeviceError(f"no device {self.name!r}{did_you_mean(self.name, known)}")
        if self.options and self.name == CPU:
            raise DeviceError("the device cpu takes no options")
        for key, value in self.options.items():
            if not isinstance(key, str) or not isinstance(value, str | int | float):
                raise DeviceError(f"device option {key!r}: {value!r} is neither text nor a number")

    @property
    def provider(self) -> Provider:
        """The entry of the table."""
        return PROVIDERS[self.name]

    @property
    def is_cpu(self) -> bool:
        """Whether this is onnxruntime's own CPU provider."""
        return self.name == CPU

    @property
    def is_present(self) -> bool:
        """Whether onnxruntime here has the provider and, for a plugin, its hardware."""
        if self.provider.name in ort.get_available_providers():
            return True
        try:
            return bool(self._plugin_devices())
        except DeviceError:
            return False

    def open(self, path: Path, options: Any) -> ort.InferenceSession:  # noqa: ANN401
        """Open an ONNX file on this device.

        Raise DeviceError if the package or the hardware is missing; onnxruntime's own errors for a
        broken file pass through. Nodes without a kernel run on the CPU:
        ``OnnxSession.placement`` counts them.
        """
        provider = self.provider
        # onnxruntime takes only strings.
        settings = {key: str(value) for key, value in self.options.items()}
        if provider.name in ort.get_available_providers():
            session = ort.InferenceSession(
                str(path),
                options,
                providers=[(provider.name, settings)],
                enable_fallback=0,  # it would print messages and retry on the CPU
            )
            if provider.name not in session.get_providers():
                raise self._without_hardware()
            return session
        devices = self._plugin_devices()
        options.add_provider_for_devices(devices[:1], settings)
        return ort.InferenceSession(str(path), options, enable_fallback=0)

    def _plugin_devices(self) -> list[Any]:
        """Register the plugin's library and return the hardware on which it runs."""
        module = self._plugin_module()
        with _lock:
            try:
                if self.name not in _registered:
                    ort.register_execution_provider_library(
                        self.provider.name, str(module.get_library_path())
                    )
                    _registered.add(self.name)
                devices = ort.get_ep_devices()
            # Many kinds: onnxruntime is older than 1.22, or a library does not load.
            except Exception as error:
                raise DeviceError(
                    f"device {self.name}: {self.provider.plugin} does not load in onnxruntime "
                    f"{ort.__version__}: {str(error).splitlines()[0]}"
                ) from error
        here = [device for device in devices if device.ep_name == self.provider.name]
        if not here:
            raise self._without_hardware()
        return here

    def _plugin_module(self) -> Any:  # noqa: ANN401
        plugin = self.provider.plugin
        if plugin is not None:
            try:
                return importlib.import_module(plugin)
            except ImportError:
                pass
        raise DeviceError(
            f"device {self.name}: onnxruntime {ort.__version__} here has no "
            f"{self.provider.name}; it comes with {self.provider.package}, and needs "
            f"{self.provider.hardware}"
        )

    def _without_hardware(self) -> DeviceError:
        return DeviceError(
            f"device {self.name}: {self.provider.name} is installed but does not start; it needs "
            f"{self.provider.hardware}"
        )


def present_devices() -> list[Device]:
    """Return the devices that "auto" tries here: those that are installed, the CPU last."""
    automatic = [Device(name) for name, provider in PROVIDERS.items() if provider.automatic]
    return [*(device for device in automatic if device.is_present), Device()]
