"""Packs files into zip and tar files; what the tests of files share."""

import io
import tarfile
import zipfile


def contents(source):
    return [source[i].image.decode() for i in range(len(source))]


def make_zip(path, contents, **options):
    with zipfile.ZipFile(path, "w", **options) as file:
        for name, data in contents.items():
            file.writestr(name, data)
    return path


def make_tar(path, contents, mode="w"):
    with tarfile.open(path, mode) as file:
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return path


PACKED = {"zip": make_zip, "tar": make_tar}
