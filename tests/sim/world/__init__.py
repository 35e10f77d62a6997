"""A whole world in one thread: an initiator, hosts, disks, clocks, a network, etcd; and judges.

What production runs is used as it is: the store, the replica, the ring and its executor, the SCSI command
set, the agent's decisions and the transactions. What stands for a machine is here:

    time.py       the one true clock and what is to happen
    process.py    a process: an event loop on a host's own clock, that can be stopped, killed, slowed
    net.py        connections between hosts: delay, silence in one direction, loss
    session.py    the NBD session between two replicas, over such a connection
    etcd.py       transactions in two phases, leases, watches that lag
    kernel.py     LIO and the ring: sessions of initiators, aborts, logins that wait
    initiator.py  an initiator with multipath
    worker.py     a volume worker: opens the store, has a Replica, serves the ring
    agent.py      a host's agent
    host.py       what is left of a host when its processes are gone: disk, boots, power
    faults.py     what goes wrong, and when
    history.py    what an initiator may be told
    checks.py     each invariant, judged from bytes, records and answers
    story.py      one run
"""
