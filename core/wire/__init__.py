"""The wire format: the `taskloom.v1` API, its generated stubs, and the way from boundary types to messages and back."""
