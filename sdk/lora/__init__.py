"""What the product knows about LoRA: targets, shapes, memory, and how adapters differ. A leaf over `sdk.formats`."""
