//! Time as Kubernetes writes it.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{MicroTime, Time},
    jiff::Timestamp,
};

/// Now, to the second.
pub fn time() -> Time {
    let now = Timestamp::now();
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// Now, to the microsecond.
pub fn micro_time() -> MicroTime {
    MicroTime(Timestamp::now())
}

/// Now, to the second, as text.
pub fn now() -> String {
    time().0.to_string()
}
