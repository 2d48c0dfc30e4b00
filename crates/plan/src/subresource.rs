//! Subresources that change an object: a patch or a refusal out of the objects as they are.
