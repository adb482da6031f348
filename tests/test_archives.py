"""Zip and tar files: read by many at once; the names in them, and what is refused."""

import hashlib
import multiprocessing
import operator
import subprocess
import sys
import tarfile
import zipfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

from jepa_jax.data import archives
from jepa_jax.errors import UserError
from tests.opening import read
from tests.packing import PACKED, contents, make_tar, make_zip

BLOBS = {f"{i:03}.jpg": np.random.default_rng(i).bytes(3000 + i) for i in range(60)}


@pytest.fixture(params=["stored", "deflated", "tar"])
def archive(request, tmp_path):
    """An archive of BLOBS."""
    if request.param == "tar":
        return make_tar(tmp_path / "a.tar", BLOBS)
    method = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED}[request.param]
    return make_zip(tmp_path / "a.zip", BLOBS, compression=method)


def test_many_threads_may_read_one_archive(archive):
    source, order = read(archive), np.random.default_rng(0).permutation(300) % 60
    with ThreadPoolExecutor(8) as pool:
        read_ahead = pool.map(lambda i: source[i].image, order)
        assert list(read_ahead) == [BLOBS[f"{i:03}.jpg"] for i in order]


def test_forked_processes_may_read_one_archive(archive):
    script = f"""
import hashlib, os
from ml_collections import ConfigDict
from jepa_jax.data import archives
from jepa_jax.data.sources import open_source
data = ConfigDict(dict(source="folder", path={str(archive)!r}))
source = open_source(data, "train")
child = os.fork()
read = b"".join(source[i % 60].image for i in range(600))
os.write(1, hashlib.md5(read).hexdigest().encode() + b"\\n")
if child:
    os.wait()
"""
    made = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    whole = hashlib.md5(b"".join(BLOBS.values()) * 10).hexdigest()
    assert made.stdout.decode().split() == [whole, whole]


def test_spawned_process_may_read_an_archive(archive):
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        example = pool.submit(operator.getitem, read(archive), 3).result()
    assert example.image == BLOBS["003.jpg"]


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("name", ["../a.jpg", "cat/../../a.jpg", "/a.jpg", "C:/a.jpg", "..\\a.jpg"])
def test_member_that_leads_out_is_refused(tmp_path, kind, name):
    path = PACKED[kind](tmp_path / f"x.{kind}", {"b.jpg": b"", name: b""})
    with pytest.raises(UserError, match="leads out of it") as error:
        read(path)
    assert repr(name) in str(error.value)


@pytest.mark.parametrize("kind", PACKED)
def test_leading_dots_are_no_hidden_folder(tmp_path, kind):
    path = PACKED[kind](tmp_path / f"x.{kind}", {"./cat/a.jpg": b"1", "./dog/b.jpg": b"2"})
    assert read(path).classes == ("cat", "dog")


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("kind", PACKED)
def test_last_of_two_members_of_a_name_counts(tmp_path, kind):
    path = PACKED[kind](tmp_path / f"x.{kind}", {"a.jpg": b"old"})
    with (zipfile.ZipFile if kind == "zip" else tarfile.open)(path, "a") as file:
        (tmp_path / "a.jpg").write_bytes(b"new")
        (file.write if kind == "zip" else file.add)(tmp_path / "a.jpg", "a.jpg")
    assert contents(read(path)) == ["new"]


def test_names_need_not_be_text(tmp_path):
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    source = read(make_tar(tmp_path / "a.tar", {name: b"x", "thé.jpg": b"y"}))
    assert contents(source) == ["x", "y"]
    assert source[0].name == f"{tmp_path}/a.tar/{name}"


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("keep", [0, 20, 700, -600, -1400])
def test_archive_that_was_cut_is_refused(tmp_path, kind, keep):
    path = PACKED[kind](tmp_path / f"x.{kind}", {"a.jpg": bytes(600), "b.jpg": bytes(600)})
    whole = path.read_bytes()[:4096]
    path.write_bytes(whole[:keep])
    with pytest.raises(UserError, match=f"isn't a whole {kind} file"):
        read(path)


@pytest.mark.parametrize("archive", ["stored", "deflated"], indirect=True)
def test_damaged_member_of_a_zip_is_named(archive):
    data = bytearray(archive.read_bytes())
    data[100] ^= 1
    archive.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.zip/000\.jpg is damaged"):
        read(archive)[0]
    assert read(archive)[1].image == BLOBS["001.jpg"]


def test_member_that_grows_beyond_its_size_is_refused(tmp_path):
    options = {"compression": zipfile.ZIP_DEFLATED}
    path = make_zip(tmp_path / "x.zip", {"a.jpg": bytes(10**6)}, **options)
    data = bytearray(path.read_bytes())
    size = data.index(b"PK\1\2") + 24  # in the directory
    data[size : size + 4] = (9999).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"x\.zip/a\.jpg is damaged"):
        read(path)[0]


@pytest.mark.parametrize("kind", PACKED)
def test_member_larger_than_any_image_is_refused(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(archives, "LARGEST", 10**6)
    path = PACKED[kind](tmp_path / f"x.{kind}", {"a.jpg": bytes(10**6 + 1), "b.jpg": b"b"})
    source = read(path)
    assert source[1].image == b"b"
    with pytest.raises(UserError, match=r"a\.jpg has 1,000,001 bytes, too many: shrink it"):
        source[0]


@pytest.mark.parametrize("kind", PACKED)
def test_archive_that_shrank_is_named(tmp_path, kind):
    path = PACKED[kind](tmp_path / f"x.{kind}", {"a.jpg": bytes(600)})
    source = read(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=rf"x\.{kind}/a\.jpg is damaged"):
        source[0]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.GNUTYPE_SPARSE])
def test_images_that_are_not_in_a_tar_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        member = tarfile.TarInfo("b.jpg")
        member.type, member.linkname = kind, "a.jpg"
        file.addfile(member)
    with pytest.raises(UserError, match=r"a\.tar/b\.jpg (is a link|has holes): pack it anew"):
        read(tmp_path / "a.tar")


def test_links_of_a_zip_are_refused(tmp_path):
    link = zipfile.ZipInfo("b.jpg")
    link.external_attr = 0o120777 << 16
    with pytest.raises(UserError, match=r"b\.jpg is a link"):
        read(make_zip(tmp_path / "a.zip", {link: b"a.jpg"}))


def test_rare_ways_of_packing_are_refused(tmp_path):
    make_zip(tmp_path / "a.zip", {"b.jpg": b"x"}, compression=zipfile.ZIP_LZMA)
    with pytest.raises(UserError, match=r"b\.jpg is compressed in a rare way.* `zip -0`"):
        read(tmp_path / "a.zip")


@pytest.mark.parametrize("name", ["a.tar.gz", "a.TGZ"])
def test_compressed_tar_is_refused(tmp_path, name):
    make_tar(tmp_path / name, {"a.jpg": b"x"}, mode="w:gz")
    with pytest.raises(UserError, match=r"is compressed as a whole.* plain \.tar"):
        read(tmp_path / name)


def test_a_tar_with_a_damaged_header_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", pax_headers={"hdrcharset": "BINARY"}) as file:
        member = tarfile.TarInfo("1.png")
        file.addfile(member)
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole.replace(b"=BINARY", b"=B\xffNARY"))
    with pytest.raises(UserError, match=r"a\.tar isn't a whole tar file"):
        read(tmp_path / "a.tar")
