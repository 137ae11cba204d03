"""Text to tokens and back: conversations rendered, characters put together, stop texts and thoughts found."""
