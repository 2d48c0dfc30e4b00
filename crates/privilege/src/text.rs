//! Texts that cannot be empty: why a grant exists, what demands it and what fails without it.

macro_rules! text {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(&'static str);

        impl $name {
            /// Takes a text that is not blank. Every use is in a constant, so a blank one does not compile.
            pub const fn new(text: &'static str) -> Self {
                assert!(!text.trim_ascii().is_empty(), "the text of a grant must say something");
                Self(text)
            }

            /// The text.
            pub const fn as_str(self) -> &'static str {
                self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.0)
            }
        }
    };
}

text! {
    /// What refuses without the grant: a kernel function, a security hook, an admission check, an authorizer.
    Hook
}
text! {
    /// Why the subject needs it, in a sentence for a reviewer.
    Reason
}
text! {
    /// Name of the scenario that fails in a known way when exactly this grant is taken away.
    Witness
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "must say something")]
    fn a_blank_reason_is_impossible() {
        let _ = Reason::new(" \t\n");
    }
}
