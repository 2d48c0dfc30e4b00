//! The privilege table: which feature grants what to whom, in which phase, demanded by which hook, and why.
