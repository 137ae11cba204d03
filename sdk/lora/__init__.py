"""What the product knows of LoRA: targets, shapes, memory, and how adapters differ. A leaf over `sdk.formats`."""
