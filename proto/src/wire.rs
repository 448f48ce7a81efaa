//! Protobuf primitives over slices, without std and without an allocator: what the agent's core writes and reads.
