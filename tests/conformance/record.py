#!/usr/bin/python3
"""Records an ESP session of two stock strongSwan daemons, with its keys.

    sudo ./record.py strongswan-aes256gcm aes256gcm16
    sudo ./record.py strongswan-aes128gcm aes128gcm16

A remote peer (192.0.2.100, with 10.9.0.1 behind it) and a gateway (192.0.2.1) in network namespaces on one bridge; between them HTTP, UDP
and echo requests through the tunnel. The bridge is captured into FOLDER/session.pcap; the gateway's keys, which charon logs at
`chd = 4`, become FOLDER/keys.toml. What runs is charon, tcpdump, curl, iproute2 and Python's standard library: nothing of this project.
"""
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

VIP, PEER, INNER = "192.0.2.1", "192.0.2.100", "10.9.0.1"
PEER_MAC, GATEWAY_MAC = "02:00:00:00:02:00", "02:00:00:00:02:ff"
SWITCH, CLIENT, GATEWAY = "vp-switch", "vp-client", "vp-gateway"
HTTP_PORT, ECHO_PORT = 80, 7

STRONGSWAN_CONF = """charon {{
  load = random nonce openssl kdf hmac sha2 aes gcm curve25519 kernel-libipsec kernel-netlink socket-default vici updown error-notify
  plugins {{
    # The VIP ends the tunnel and lies inside its selectors: the mark keeps charon's own packets off the routes into the tunnel.
    kernel-libipsec {{
      allow_peer_ts = yes
    }}
    socket-default {{
      fwmark = 0x42
    }}
    kernel-netlink {{
      fwmark = !0x42
    }}
  }}
  filelog {{
    charon {{
      path = {folder}/charon.log
      default = 1
      chd = 4
      flush_line = yes
    }}
  }}
}}
"""

SWANCTL_CONF = """connections {{
  branch {{
    version = 2
    local_addrs = {local}
    remote_addrs = {remote}
    proposals = aes256gcm16-prfsha256-x25519
    mobike = no
    local {{
      auth = psk
      id = {local_id}
    }}
    remote {{
      auth = psk
      id = {remote_id}
    }}
    children {{
      net {{
        local_ts = {local_ts}
        remote_ts = {remote_ts}
        esp_proposals = {proposal}-x25519
      }}
    }}
  }}
}}
secrets {{
  ike {{
    id-a = branch.example
    id-b = vip.example
    secret = "recorded once, never used again"
  }}
}}
"""


def run(command, **options):
    return subprocess.run(command.split() if isinstance(command, str) else command, check=True, text=True, **options)


def inside(namespace, command, **options):
    return run(["ip", "netns", "exec", namespace, *command.split()], **options)


def remove_lab():
    for namespace in (CLIENT, GATEWAY, SWITCH):
        subprocess.run(["ip", "netns", "delete", namespace], stderr=subprocess.DEVNULL, check=False)


def build_lab():
    for namespace in (SWITCH, CLIENT, GATEWAY):
        run(f"ip netns add {namespace}")
        inside(namespace, "sysctl -q -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")
        inside(namespace, "ip link set lo up")
    inside(SWITCH, "ip link add outside type bridge stp_state 0 mcast_snooping 0")
    inside(SWITCH, "ip link set outside up")
    for namespace, port, mac, address in ((CLIENT, "peer", PEER_MAC, PEER), (GATEWAY, "gateway", GATEWAY_MAC, VIP)):
        inside(SWITCH, f"ip link add {port} type veth peer name out0 address {mac} netns {namespace}")
        inside(SWITCH, f"ip link set {port} master outside up")
        inside(namespace, "ip link set out0 up")
        inside(namespace, f"ip address add {address}/24 dev out0")
        # Captured packets must carry their checksums and be no longer than the wire's MTU.
        inside(namespace, "ethtool -K out0 rx off tx off tso off gso off gro off", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # What lies inside the selectors has to be an address of the host before the child SA comes up.
    inside(CLIENT, f"ip address add {INNER}/32 dev lo")


class Charon:
    """charon in a namespace; its /run is its own, because its pid file and socket have fixed paths there."""

    def __init__(self, namespace, folder, connection):
        self.folder = folder
        (folder / "run").mkdir(parents=True)
        (folder / "strongswan.conf").write_text(STRONGSWAN_CONF.format(folder=folder))
        (folder / "swanctl.conf").write_text(SWANCTL_CONF.format(**connection))
        script = f"mount --bind {folder}/run /run && exec /usr/lib/ipsec/charon"
        self.environment = os.environ | {"STRONGSWAN_CONF": f"{folder}/strongswan.conf", "SWANCTL_DIR": str(folder)}
        self.process = subprocess.Popen(["ip", "netns", "exec", namespace, "sh", "-c", script], env=self.environment,
                                        stdout=open(folder / "charon.out", "w"), stderr=subprocess.STDOUT)
        for _ in range(100):
            if (folder / "run/charon.vici").exists():
                break
            time.sleep(0.1)
        self.swanctl("--load-all", "--file", f"{folder}/swanctl.conf")

    def swanctl(self, *arguments):
        with open(self.folder / "swanctl.out", "a") as out:
            run(["swanctl", *arguments, "--uri", f"unix://{self.folder}/run/charon.vici"], env=self.environment, stdout=out, stderr=out)


def serve():
    """The gateway's side of the traffic: an HTTP server of /N (N bytes) that takes uploads, and a UDP echo."""
    from http.server import BaseHTTPRequestHandler
    from socketserver import ThreadingTCPServer

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            self.answer(int(self.path.strip("/")))

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(2)

        def answer(self, length):
            self.send_response(200)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(bytes(n % 251 for n in range(length)))

    def echo(udp):
        while True:
            udp.sendto(*udp.recvfrom(2048))

    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((VIP, ECHO_PORT))
    threading.Thread(target=echo, args=[udp], daemon=True).start()
    server = ThreadingTCPServer((VIP, HTTP_PORT), Handler)
    print("ready", flush=True)
    server.serve_forever()


def talk(folder):
    """The client's side: downloads, an upload, datagrams of many sizes, echo requests."""
    url = f"http://{VIP}"
    curl = ["curl", "-sS", "--fail", "--max-time", "10", "--interface", INNER, "-o", "/dev/null"]
    for length in (1, 100, 1300, 1400, 3000, 5000, 10_000, 20_000):
        run([*curl, f"{url}/{length}"])
    upload = Path(folder) / "upload"
    upload.write_bytes(bytes(n % 241 for n in range(20_000)))
    for _ in range(2):
        run([*curl, "--data-binary", f"@{upload}", "-H", "Expect:", url])
    for client in range(6):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind((INNER, 0))
            udp.settimeout(5)
            for length in range(client, 1372, 230):
                udp.sendto(bytes([client]) * length, (VIP, ECHO_PORT))
                assert len(udp.recv(2048)) == length
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as icmp:
        icmp.bind((INNER, 0))
        icmp.settimeout(5)
        for number in range(12):
            body = struct.pack(">HH", 0x7670, number) + bytes(range(16 + number))
            words = struct.unpack(f">{(len(body) + 1) // 2}H", body + bytes(len(body) % 2))
            total = 0x0800 + sum(words)
            total = (total >> 16) + (total & 0xffff)
            checksum = ~(total + (total >> 16)) & 0xffff
            icmp.sendto(struct.pack(">BBH", 8, 0, checksum) + body, (VIP, 0))
            icmp.recv(2048)


def keys_of(log, proposal):
    """The one child SA in the gateway's log: (our inbound SPI, the peer's, key in, key out), keys with their salt."""
    def keymat(name):
        begin = re.search(rf"encryption {name} key => (\d+) bytes @ \S+\n((?:.*\d+: (?:[0-9A-F]{{2}} )+.*\n)+)", log)
        rows = re.findall(r"\b\d+: ((?:[0-9A-F]{2} )+)", begin.group(2))
        key = "".join(rows).replace(" ", "").lower()
        assert len(key) == 2 * int(begin.group(1)) == 2 * (int(proposal[3:6]) // 8 + 4), name
        return key

    # The gateway answers: what the initiator encrypts comes in.
    spi_in, spi_out = re.search(r"CHILD_SA net\{1\} established with SPIs ([0-9a-f]{8})_i ([0-9a-f]{8})_o", log).groups()
    return spi_in, spi_out, keymat("initiator"), keymat("responder")


KEYS = """# The child SA that session.pcap was recorded with, as the gateway sees it. Written by record.py.
[[child]]
spi_in = 0x{spi_in}
spi_out = 0x{spi_out}
algorithm = "{proposal}"
key_in = "{key_in}"
key_out = "{key_out}"
local = "{vip}"
remote = "{peer}"
udp = {{ local = 4500, remote = 4500 }}
local_ts = ["{vip}/32"]
remote_ts = ["10.9.0.0/16"]
"""


def record(out, proposal):
    folder = Path(tempfile.mkdtemp(prefix="vp-record-"))
    processes = []
    remove_lab()
    try:
        build_lab()
        ends = dict(proposal=proposal)
        gateway = Charon(GATEWAY, folder / "gateway", ends | dict(
            local=VIP, remote="%any", local_id="vip.example", remote_id="branch.example", local_ts=f"{VIP}/32", remote_ts="10.9.0.0/16"))
        processes.append(gateway.process)
        client = Charon(CLIENT, folder / "client", ends | dict(
            local=PEER, remote=VIP, local_id="branch.example", remote_id="vip.example", local_ts="10.9.0.0/16", remote_ts=f"{VIP}/32"))
        processes.append(client.process)
        server = subprocess.Popen(["ip", "netns", "exec", GATEWAY, sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
        processes.append(server)
        assert server.stdout.readline() == "ready\n"
        capture = folder / "session.pcap"
        tcpdump = subprocess.Popen(["ip", "netns", "exec", SWITCH, "tcpdump", "-i", "outside", "-U", "-Z", "root", "-w", capture, "arp or ip"],
                                   stderr=subprocess.DEVNULL)
        processes.append(tcpdump)
        time.sleep(1)
        client.swanctl("--initiate", "--child", "net", "--timeout", "10")
        inside(CLIENT, f"{sys.executable} {__file__} --talk {folder}")
        time.sleep(1)
        tcpdump.terminate()
        tcpdump.wait()
        spi_in, spi_out, key_in, key_out = keys_of((folder / "gateway/charon.log").read_text(), proposal)
        out.mkdir(exist_ok=True)
        shutil.copy(capture, out / "session.pcap")
        (out / "keys.toml").write_text(KEYS.format(**locals(), vip=VIP, peer=PEER))
        print(f"{out}: SPIs {spi_in} in, {spi_out} out")
    except Exception:
        print(f"logs are left in {folder}", file=sys.stderr)
        raise
    else:
        shutil.rmtree(folder)
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()
        remove_lab()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--serve"]:
            serve()
        case ["--talk", folder]:
            talk(folder)
        case [folder, proposal] if os.geteuid() == 0:
            record(Path(__file__).parent / folder, proposal)
        case _:
            sys.exit(__doc__)
