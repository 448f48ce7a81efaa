//! Every attack by its name.

use serde::Serialize;

/// What attackers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// They only compute, on all cores that attackers have: what pages notice of that is this machine's, not the gateway's.
    Bystanders,
    /// As many sockets as a process may have, each with a head that grows by a byte a second.
    Slowloris,
    /// The same with the first half of a TLS handshake.
    HalfHandshakes,
    /// TLS handshakes to the end, one after the other.
    Handshakes,
    /// A message in fragments of one byte that never ends.
    OneByteFrames,
    /// Random bytes in the place of frames, masked.
    MaskedGarbage,
    /// Frames that claim to be compressed, and compressed bodies.
    Compression,
    /// Lengths and numbers of 2^63 in the place of small ones.
    HugeVarints,
    /// gRPC messages that announce 4 GiB.
    GrpcBombs,
    /// HTTP/2 streams that are taken back as soon as they are opened.
    RapidReset,
    /// HTTP/2 heads that go on in frame after frame.
    Continuation,
    /// First packets of QUIC connections that nobody goes on with, each from another address.
    QuicInitials,
    /// 10,000 addresses that report, some of them what is right, as fast as they can.
    Botnet,
}

impl Kind {
    /// In the order in which they run.
    pub const ALL: [Self; 13] = [
        Self::Bystanders,
        Self::Slowloris,
        Self::HalfHandshakes,
        Self::Handshakes,
        Self::OneByteFrames,
        Self::MaskedGarbage,
        Self::Compression,
        Self::HugeVarints,
        Self::GrpcBombs,
        Self::RapidReset,
        Self::Continuation,
        Self::QuicInitials,
        Self::Botnet,
    ];

    /// As it is asked for.
    pub fn name(self) -> String {
        use clap::ValueEnum;
        self.to_possible_value().expect("every attack has a name").get_name().to_owned()
    }

    /// How many attackers at once.
    pub(super) fn attackers(self) -> u32 {
        match self {
            Self::Slowloris | Self::HalfHandshakes => 15_000,
            Self::OneByteFrames => 500,
            Self::Bystanders | Self::QuicInitials => 4,
            Self::Handshakes
            | Self::MaskedGarbage
            | Self::Compression
            | Self::HugeVarints
            | Self::GrpcBombs
            | Self::RapidReset
            | Self::Continuation
            | Self::Botnet => 64,
        }
    }

    /// What one of them does again and again.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Bystanders => "sums",
            Self::Slowloris | Self::HalfHandshakes => "bytes after the first",
            Self::Handshakes => "handshakes",
            Self::OneByteFrames => "frames",
            Self::MaskedGarbage | Self::Compression | Self::HugeVarints => "messages",
            Self::GrpcBombs => "calls",
            Self::RapidReset => "streams",
            Self::Continuation => "frames",
            Self::QuicInitials => "packets",
            Self::Botnet => "answers",
        }
    }
}
