# SPDX-License-Identifier: Apache-2.0
"""The codecs of the C library on numpy arrays, through lib/libkvc_codec_shared.so (codec_shared.h)."""

import ctypes
import dataclasses
import os

import numpy as np

DTYPE_BF16 = 2
SPLIT, LATENT = 2, 3


class _Array(ctypes.Structure):
	_fields_ = [("values", ctypes.c_void_p), ("back", ctypes.c_void_p), ("layers", ctypes.c_uint32), ("tokens", ctypes.c_uint32),
	            ("heads", ctypes.c_uint32), ("dims_k", ctypes.c_uint32), ("dims_v", ctypes.c_uint32), ("dtype", ctypes.c_uint32),
	            ("arrangement", ctypes.c_uint32), ("block_tokens", ctypes.c_uint32), ("page_tokens", ctypes.c_uint32),
	            ("is_k", ctypes.c_uint32), ("position_tokens", ctypes.c_uint64), ("profile", ctypes.c_void_p),
	            ("scores", ctypes.c_void_p)]


class _Result(ctypes.Structure):
	_fields_ = [("raw_bytes", ctypes.c_uint64), ("stored_bytes", ctypes.c_uint64), ("units", ctypes.c_uint64),
	            ("raw_units", ctypes.c_uint64), ("span", ctypes.c_uint32), ("failed_layer", ctypes.c_uint32),
	            ("failed_token", ctypes.c_uint32), ("encode_ns", ctypes.c_uint64), ("decode_ns", ctypes.c_uint64)]


class CodecError(RuntimeError):
	pass


@dataclasses.dataclass
class Coded:
	"""What came back, and what it took."""
	values: np.ndarray
	raw_bytes: int
	stored_bytes: int
	units: int
	raw_units: int  # did not shrink: stored as they are
	encode_ns: int
	decode_ns: int


def to_floats(bf16: np.ndarray) -> np.ndarray:
	return (bf16.astype(np.uint32) << 16).view(np.float32)


class Library:
	def __init__(self, build: str):
		path = os.path.join(build, "lib", "libkvc_codec_shared.so")
		if not os.path.exists(path):
			raise CodecError(f"{path} is missing: build the target kvc_codec_shared")
		self.path = path
		self._lib = ctypes.CDLL(path)
		self._lib.kvcq_status_name.restype = ctypes.c_char_p
		self._lib.kvcq_profile_open.restype = ctypes.c_void_p

	def profile(self, path: str):
		"""What `kvcask calibrate` wrote, for round_trip."""
		found = self._lib.kvcq_profile_open(os.fsencode(path))
		if not found:
			raise CodecError(f"{path}: no profile that this build can read")
		return found

	def names(self) -> list:
		"""[(name, lossless, needs_profile)] of this build."""
		found, name, lossless, needs = [], ctypes.c_char_p(), ctypes.c_uint32(), ctypes.c_uint32()
		while self._lib.kvcq_codec_at(len(found), ctypes.byref(name), ctypes.byref(lossless), ctypes.byref(needs)) == 0:
			found.append((name.value.decode(), bool(lossless.value), bool(needs.value)))
		return found

	def check(self, spec: str):
		"""(lossless, needs_profile) of a spec; CodecError says what is wrong with it."""
		wrong, lossless, needs = ctypes.c_char_p(), ctypes.c_uint32(), ctypes.c_uint32()
		text = spec.encode()  # must outlive `wrong`, which may point into it
		status = self._lib.kvcq_spec_check(text, ctypes.byref(lossless), ctypes.byref(needs), ctypes.byref(wrong))
		if status != 0:
			where = f" at '{wrong.value.decode()}'" if wrong.value else ""
			raise CodecError(f"codec '{spec}': {self._lib.kvcq_status_name(status).decode()}{where}")
		return bool(lossless.value), bool(needs.value)

	def round_trip(self, spec: str, values: np.ndarray, is_k: bool, other_dims: int = 0, block_tokens: int = 256,
	               page_tokens: int = 16, position: int = 0, profile=None, arrangement: int = SPLIT) -> Coded:
		"""values: uint16 [layers, tokens, heads, dims]; other_dims: of V when this is K, and the other way round."""
		values = np.ascontiguousarray(values)
		assert values.dtype == np.uint16 and values.ndim == 4, (values.dtype, values.shape)
		layers, tokens, heads, dims = values.shape
		back = np.empty_like(values)
		other = other_dims or dims
		array = _Array(values.ctypes.data, back.ctypes.data, layers, tokens, heads, dims if is_k else other,
		               other if is_k else dims, DTYPE_BF16, arrangement, block_tokens, page_tokens, is_k, position,
		               profile, None)
		result = _Result()
		status = self._lib.kvcq_round_trip(spec.encode(), ctypes.byref(array), ctypes.byref(result))
		if status != 0:
			raise CodecError(f"codec '{spec}', {'K' if is_k else 'V'}, layer {result.failed_layer}, token "
			                 f"{result.failed_token}: {self._lib.kvcq_status_name(status).decode()}")
		return Coded(back, result.raw_bytes, result.stored_bytes, result.units, result.raw_units, result.encode_ns,
		             result.decode_ns)
