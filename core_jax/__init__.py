"""What the methods share: CLIP, data records, the embedded world and the training loop; it imports none of them."""
