"""A decoder's file: its state, what it was trained on, and a checksum."""

import json
import zlib
from typing import Any

import flax.serialization
from etils import epath

from jepa_jax.atomic import write_bytes
from jepa_jax.errors import StorageError, UserError
from jepa_jax.visualize.decoder.training import State

FILE = "decoder.msgpack"


def save(folder: epath.Path, state: State, about: dict[str, Any]) -> None:
    """Either the old file or the new one is there, also after a crash.

    Args:
      about: what the state belongs to, as JSON would have it.
    """
    content = {"about": json.dumps(about), "state": flax.serialization.to_state_dict(state)}
    packed = flax.serialization.msgpack_serialize(content)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / FILE, zlib.crc32(packed).to_bytes(4, "big") + packed)
    except OSError as error:
        raise StorageError(f"{folder / FILE} cannot be written ({error})") from None


def load(folder: epath.Path, about: dict[str, Any], like: State) -> State | None:
    """What the folder holds; None if there is nothing.

    Args:
      about: what the state must belong to.
      like: a state of the same structure.

    Raises:
      UserError: if it is damaged, or belongs to something else.
    """
    file = folder / FILE
    try:
        found = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{file} cannot be read ({error})") from None
    checksum, packed = found[:4], found[4:]
    if checksum != zlib.crc32(packed).to_bytes(4, "big"):
        raise UserError(f"{file} is damaged: delete it, to train the decoder anew")
    content = flax.serialization.msgpack_restore(packed)
    stored = json.loads(content["about"])
    other = [key for key in about if about[key] != stored.get(key)]
    if other:
        raise UserError(
            f"{folder} holds a decoder of another {' and '.join(other)}: take another --out"
        )
    return flax.serialization.from_state_dict(like, content["state"])
