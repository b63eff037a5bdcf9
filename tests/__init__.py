"""The tests of quantize and qwenctl."""
