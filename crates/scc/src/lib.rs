//! SecurityContextConstraints admission: constraints, requester and pod in; the defaulted pod or every refusal out.
