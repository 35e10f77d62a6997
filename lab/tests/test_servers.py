"""The real etcd and Swift: they start, die and come back with what they had."""

import subprocess
from pathlib import Path

import pytest

from holdfast.lab.errors import LabError
from holdfast.lab.etcd import EtcdServer, Tls
from holdfast.lab.guest import Guest
from holdfast.lab.lab import Lab
from holdfast.lab.servers import LocalHost
from holdfast.lab.swift import SwiftServer


def _etcdctl(server: EtcdServer, *words: str) -> str:
    command = ["etcdctl", "--endpoints", server.url, *words]
    environment = {"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=60
    ).stdout


def test_etcd_keeps_its_keys_when_killed(etcd_server: EtcdServer) -> None:
    _etcdctl(etcd_server, "put", "lab-test/key", "value")
    etcd_server.kill()
    assert not etcd_server.running
    etcd_server.start()
    assert _etcdctl(etcd_server, "get", "lab-test/key") == "lab-test/key\nvalue\n"
    etcd_server.stop()
    etcd_server.start()
    assert _etcdctl(etcd_server, "get", "--print-value-only", "lab-test/key") == "value\n"
    with pytest.raises(LabError, match="already runs"):
        etcd_server.start()


def _certificates(folder: Path) -> None:
    """ca.crt, and the pair known.crt and known.key for 127.0.0.1, signed by it."""
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    elliptic = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for words in (
        ["req", "-x509", *elliptic, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=lab"],
        ["req", *elliptic, "-keyout", "known.key", "-out", "known.csr", "-subj", "/CN=known"],
        ["x509", "-req", "-in", "known.csr", "-CA", "ca.crt", "-CAkey", "ca.key"]
        + ["-CAcreateserial", "-out", "known.crt", "-extfile", "names"],
    ):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def test_etcd_with_tls_wants_a_client_s_certificate(local_host: LocalHost, tmp_path: Path) -> None:
    _certificates(tmp_path)
    names = ("known.crt", "known.key", "ca.crt")
    certificate, key, authority = (tmp_path / name for name in names)
    with EtcdServer(local_host, tmp_path / "etcd", tls=Tls(certificate, key, authority)) as server:
        trust = ["--cacert", str(authority), "--command-timeout=10s"]
        proof = ["--cert", str(certificate), "--key", str(key)]
        assert _etcdctl(server, *trust, *proof, "put", "k", "v") == "OK\n"
        with pytest.raises(subprocess.CalledProcessError):
            _etcdctl(server, *trust, "put", "k", "v")


def test_a_server_that_cannot_start_says_why(local_host: LocalHost, tmp_path: Path) -> None:
    broken = EtcdServer(local_host, tmp_path, address="127.0.0.1", port=1 << 20)
    with pytest.raises(LabError, match=r"(?s)etcd ended; its log .* invalid port"):
        broken.start()


def test_swift_keeps_its_objects_when_killed(swift_server: SwiftServer) -> None:
    bucket = swift_server.make_bucket("lab-test")
    assert swift_server.make_bucket("lab-test") == bucket
    client = swift_server.client()
    body = bytes(range(256)) * 4096
    client.put_object(Bucket=bucket, Key="a/b", Body=body)
    swift_server.kill()
    assert not swift_server.running
    swift_server.start()
    assert client.get_object(Bucket=bucket, Key="a/b")["Body"].read() == body
    part = client.get_object(Bucket=bucket, Key="a/b", Range="bytes=256-511")
    assert part["Body"].read() == bytes(range(256))
    swift_server.stop()
    swift_server.start()
    assert [one["Key"] for one in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["a/b"]


def test_swift_refuses_a_wrong_secret(swift_server: SwiftServer) -> None:
    import boto3
    from botocore.exceptions import ClientError

    stranger = boto3.client(
        "s3",
        endpoint_url=swift_server.endpoint_url,
        aws_access_key_id=swift_server.credentials.access_key,
        aws_secret_access_key="guessed",
        region_name=swift_server.credentials.region,
    )
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        stranger.list_buckets()


@pytest.mark.lab
def test_guests_reach_servers_in_the_lab_s_network(lab: Lab, compute: Guest) -> None:
    folder = lab.folder.parent
    with (
        EtcdServer(lab, folder / "etcd", address=lab.address, port=2379) as etcd,
        SwiftServer(lab, folder / "swift", address=lab.address, port=8080) as swift,
    ):
        put = ["etcdctl", "--endpoints", etcd.url, "put", "k", "v"]
        assert compute.run(put, env={"ETCDCTL_API": "3"}).stdout == "OK\n"
        swift.make_bucket("lab-test")
        with lab.network():
            swift.client().put_object(Bucket="lab-test", Key="k", Body=b"v")
        alive = "import urllib.request, sys; print(urllib.request.urlopen(sys.argv[1]).status)"
        url = f"{swift.endpoint_url}/healthcheck"
        assert compute.run(["/usr/bin/python3", "-c", alive, url]).stdout == "200\n"
