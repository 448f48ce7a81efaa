"""A session by gRPC, as a server or an app has one: Hello, one batch with one event, its acknowledgement.

    pip install grpcio grpcio-tools
    python -m grpc_tools.protoc -I proto/schema --python_out=. --grpc_python_out=. agent.proto
    python proto/examples/grpc_session.py 127.0.0.1:8080 demo http://127.0.0.1:8090
"""

import os
import sys
import time

import grpc

sys.path.insert(0, os.getcwd())  # where the two modules were generated
import agent_pb2 as agent
import agent_pb2_grpc


def new_sid(now_ms):
    """A UUIDv7: 48 bits of time, version, random, variant, random."""
    rest = bytearray(os.urandom(10))
    rest[0] = rest[0] & 0x0F | 0x70
    rest[2] = rest[2] & 0x3F | 0x80
    return now_ms.to_bytes(6, "big") + bytes(rest)


def main(gateway, site, origin):
    now_ms = time.time_ns() // 1_000_000
    # Kept, and sent again under the same number, until it is acknowledged: then it counts once, whatever happens meanwhile.
    batch = agent.Batch(
        sid=new_sid(now_ms),
        seq=1,
        base_ms=now_ms,
        strings=["Order shipped", f"{origin}/orders"],
        events=[agent.Event(name=1, url=2)],
    )
    frames = [
        agent.ClientFrame(hello=agent.Hello(site=site, agent_version="example")),
        agent.ClientFrame(batch=agent.Envelope(sent_ms=now_ms, batch=batch.SerializeToString())),
        agent.ClientFrame(bye=agent.Bye()),
    ]
    # One of the site's own origins, and whoever the event is about.
    metadata = [("origin", origin), ("tideline-user-agent", "Example/1.0 (Linux; Android 15; Mobile)")]
    with grpc.insecure_channel(gateway) as channel:
        for answer in agent_pb2_grpc.AgentStub(channel).Connect(iter(frames), metadata=metadata):
            kind = answer.WhichOneof("frame")
            if kind == "welcome":
                print("welcome to region", answer.welcome.region)
            elif kind == "ack":
                print("counted:", list(answer.ack.seqs))
            else:
                print(answer)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: grpc_session.py GATEWAY SITE ORIGIN")
    main(*sys.argv[1:])
