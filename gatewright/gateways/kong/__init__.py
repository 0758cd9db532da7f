"""Kong's plugin server protocols: MessagePack RPC ("MsgPack:1") and Protobuf RPC ("ProtoBuf:1")."""
