#!/usr/bin/python3
"""What the same work costs others on this machine: DPDK's example ipsec-secgw, and DPDK's own measurement of its crypto drivers.

    bench-peers.py IPSEC-SECGW OUTPUT.json

ipsec-secgw (with librte_ipsec) forwards packets from one virtual port to another on one core, once through an SA and once past it. The
receiving port is net_pcap with infinite_rx: it always has a full burst, each packet a copy of one that it read at the start. The sending
port is net_null, which frees. So the core never waits, and a packet costs what its thread ran for (on-CPU time, which other processes
don't disturb) divided by the packets that were sent. Both runs pay for the same ports: their difference is what ESP adds. The window
against replays is off, because the same packets come again and again.

dpdk-test-crypto-perf gives cycles per buffer of crypto_aesni_gcm and crypto_aesni_mb, ops and queues included. The least of some runs counts.
"""

import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time

from scapy.all import ESP, IP, UDP, Ether, Raw, SecurityAssociation, wrpcap

SIZES = [64, 256, 512, 1420]
KEY = bytes(range(1, 17))
SALT = b"\xca\xfe\xba\xbe"
RUNS = 5
RUN_SECONDS = 0.5
# Some milliseconds each.
SHORT_RUNS = 10
PACKETS = 512
MEMORY_MIB = 512
HUGEPAGES = MEMORY_MIB // 2

CONFIG = """
sp ipv4 out esp protect 5 pri 1 dst 192.168.105.0/24 sport 0:65535 dport 0:65535
sp ipv4 out esp bypass pri 1 dst 192.168.106.0/24 sport 0:65535 dport 0:65535
sp ipv4 in esp protect 105 pri 1 dst 192.168.115.0/24 sport 0:65535 dport 0:65535
sp ipv4 in esp bypass pri 1 dst 192.168.116.0/24 sport 0:65535 dport 0:65535
sa out 5 aead_algo aes-128-gcm aead_key {key} mode ipv4-tunnel src 172.16.1.5 dst 172.16.2.5
sa in 105 aead_algo aes-128-gcm aead_key {key} mode ipv4-tunnel src 172.16.2.5 dst 172.16.1.5
rt ipv4 dst 172.16.2.5/32 port 0
rt ipv4 dst 192.168.106.0/24 port 0
rt ipv4 dst 192.168.115.0/24 port 1
rt ipv4 dst 192.168.116.0/24 port 1
neigh port 0 02:00:00:00:00:01
neigh port 1 02:00:00:00:00:02
"""


def tsc_mhz():
    """On x86 the kernel computes BogoMIPS from the time stamp counter: twice its frequency."""
    cpuinfo = pathlib.Path("/proc/cpuinfo").read_text()
    return float(re.search(r"bogomips\s*:\s*([\d.]+)", cpuinfo).group(1)) / 2


def packets(direction, protected, size):
    """Frames whose inner packet has `size` bytes, each with its own source port."""
    network = {("out", True): 105, ("out", False): 106, ("in", True): 115, ("in", False): 116}[direction, protected]
    association = SecurityAssociation(
        ESP, spi=105, crypt_algo="AES-GCM", crypt_key=KEY + SALT, tunnel_header=IP(src="172.16.2.5", dst="172.16.1.5")
    )
    for n in range(PACKETS):
        inner = IP(src="10.0.0.1", dst=f"192.168.{network}.1") / UDP(sport=1024 + n, dport=53)
        inner = IP(bytes(inner / Raw(bytes(size - len(inner)))))
        if direction == "in" and protected:
            inner = association.encrypt(inner)
        yield Ether(src="02:00:00:00:00:09", dst="02:00:00:00:00:08") / inner


def telemetry(prefix, process):
    """A connection to the process's telemetry, once it is there."""
    folder = pathlib.Path("/var/run/dpdk") / prefix
    while process.poll() is None:
        for path in sorted(folder.glob("dpdk_telemetry.v2*")):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                connection.connect(str(path))
                connection.recv(4096)
                return connection
            except OSError:
                connection.close()
        time.sleep(0.05)
    raise SystemExit(f"ipsec-secgw doesn't start:\n{process.stderr.read().decode()}")


def sent(connection, port):
    connection.send(f"/ethdev/stats,{port}".encode())
    return json.loads(connection.recv(65536))["/ethdev/stats"]["opackets"]


def on_cpu_ns(pid):
    return int(pathlib.Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0])


def free_hugepages():
    return int(re.search(r"HugePages_Free:\s*(\d+)", pathlib.Path("/proc/meminfo").read_text()).group(1))


@contextlib.contextmanager
def hugepages():
    """As many as are missing, for the time of the measurement, if the kernel lets us."""
    pages = pathlib.Path("/proc/sys/vm/nr_hugepages")
    missing = max(0, HUGEPAGES - free_hugepages())

    def add(count):
        # Others may do the same meanwhile.
        pages.write_text(str(max(0, int(pages.read_text()) + count)))

    try:
        add(missing)
        yield
    finally:
        add(-missing)


def eal(prefix, cpus):
    memory = ["--in-memory"] if free_hugepages() >= HUGEPAGES else ["--no-huge", "--no-shconf"]
    return ["-l", cpus, "--no-pci", f"--file-prefix={prefix}", "--log-level=error", "-m", str(MEMORY_MIB), *memory]


def secgw_ns(binary, folder, direction, protected, size):
    """Nanoseconds of CPU time per forwarded packet."""
    capture, config = folder / "in.pcap", folder / "secgw.cfg"
    wrpcap(str(capture), list(packets(direction, protected, size)))
    config.write_text(CONFIG.format(key=":".join(f"{byte:02x}" for byte in KEY + SALT)))
    source = f"rx_pcap={capture},infinite_rx=1"
    # ESP comes in at port 0, its targets are behind port 1.
    devices = [f"net_pcap0,{source}", "net_null0,no-rx=1"] if direction == "in" else ["net_null0,no-rx=1", f"net_pcap0,{source}"]
    # Ports are numbered in the order in which they appear.
    sender = 1 if direction == "in" else 0
    cpu = max(os.sched_getaffinity(0))
    prefix = f"vipsec-peers-{os.getpid()}-{direction}-{protected}-{size}"
    command = [binary, *eal(prefix, str(cpu))]
    for device in [*devices, "crypto_aesni_gcm0"]:
        command += ["--vdev", device]
    command += ["--", "-p", "0x3", "-P", "-u", "0x1", "-l", "-w", "0", "--config", f"(0,0,{cpu}),(1,0,{cpu})"]
    command += ["--rxoffload", "0", "--txoffload", "0", "-f", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        connection = telemetry(prefix, process)
        while sent(connection, sender) == 0:
            if process.poll() is not None:
                raise SystemExit(f"ipsec-secgw ended: {process.stderr.read().decode()}")
            time.sleep(0.05)
        best = float("inf")
        for _ in range(RUNS):
            ns, count = on_cpu_ns(process.pid), sent(connection, sender)
            time.sleep(RUN_SECONDS)
            ns, count = on_cpu_ns(process.pid) - ns, sent(connection, sender) - count
            best = min(best, ns / count)
        return best
    finally:
        process.kill()
        process.wait()


def secgw(binary, folder, mhz):
    for size in SIZES:
        for direction in ["out", "in"]:
            protected, clear = (secgw_ns(binary, folder, direction, kind, size) for kind in (True, False))
            yield {
                "peer": "ipsec-secgw",
                "direction": direction,
                "size_bytes": size,
                "ns_per_packet": protected,
                "forward_ns": clear,
                "added_cycles": (protected - clear) * mhz / 1000,
            }


def crypto_perf():
    """Cycles per buffer of DPDK's software drivers; the text is as long as ESP makes it of each size."""
    cpus = sorted(os.sched_getaffinity(0))[-2:]
    if len(cpus) < 2:
        return
    for driver in ["crypto_aesni_gcm", "crypto_aesni_mb"]:
        for direction, operation in [("out", "encrypt"), ("in", "decrypt")]:
            lengths = [(size + 2 + 3) // 4 * 4 for size in SIZES]
            command = ["dpdk-test-crypto-perf", *eal(f"vipsec-perf-{os.getpid()}", f"{cpus[0]},{cpus[1]}")]
            command += ["--vdev", f"{driver}0", "--", "--ptest", "throughput", "--devtype", driver, "--optype", "aead"]
            command += ["--aead-algo", "aes-gcm", "--aead-key-sz", "16", "--aead-iv-sz", "12", "--aead-aad-sz", "12"]
            command += ["--aead-op", operation, "--digest-sz", "16", "--burst-sz", "32", "--total-ops", "16384", "--silent"]
            command += ["--buffer-sz", ",".join(map(str, lengths)), "--csv-friendly"]
            best = {}
            for _ in range(SHORT_RUNS):
                output = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout
                rows = [line.split(";" if ";" in line else ",") for line in output.splitlines() if line[:1].isdigit()]
                for row in rows:
                    length, cycles = int(row[1]), float(row[-1])
                    best[length] = min(cycles, best.get(length, cycles))
            for size, length in zip(SIZES, lengths):
                yield {"peer": driver, "direction": direction, "size_bytes": size, "added_cycles": best[length]}


def main():
    binary, output = sys.argv[1], pathlib.Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder, hugepages():
        rows = [*secgw(binary, pathlib.Path(folder), tsc_mhz()), *crypto_perf()]
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(rows, indent=2) + "\n")
    for row in rows:
        print(f"{row['peer']:18} {row['direction']:4} {row['size_bytes']:5} bytes {row['added_cycles']:7.0f} cycles")


if __name__ == "__main__":
    main()
