"""What a cluster in a lab keeps apart."""

from holdfast.lab.cluster import Cluster
from holdfast.lab.lab import Lab


def test_only_certificates_of_its_own_authority_open_etcd(lab: Lab) -> None:
    """Users have certificates: one that etcd took would read and write everybody's records (I-10)."""
    cluster = Cluster(lab)
    cluster.make_authority(["alice"])
    cluster.start_etcd()
    assert cluster.etcd is not None
    try:
        assert cluster.record("volumes/0") is None, "the operator's certificate for etcd"
        trust = [f"--endpoints={cluster.etcd.url}", f"--cacert={cluster.etcd_credentials('etcd').ca}"]
        for name in ("alice", "operator", "metadata"):
            own = cluster.credentials(name)
            words = ["etcdctl", "--command-timeout=3s", *trust, f"--cert={own.certificate}"]
            words += [f"--key={own.key}", "get", "--prefix", "/holdfast/"]
            done = lab.host_run(words, env=cluster.etcdctl_environment(), check=False)
            assert done.returncode != 0, f"etcd took {name}'s certificate"
    finally:
        cluster.etcd.kill()
