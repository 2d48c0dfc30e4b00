//! Names that are part of the interface: annotations, types and well-known values.

/// API group of the SCC objects.
pub const GROUP: &str = "security.openshift.io";
/// Annotation with which a pod's author names the one SCC that must be used.
pub const REQUIRED_SCC: &str = "openshift.io/required-scc";
/// Annotation that admission writes: the SCC under which the pod was admitted.
pub const SCC: &str = "openshift.io/scc";
/// Annotation that admission writes: whose right it was, `user` or `serviceaccount`.
pub const SUBJECT_TYPE: &str = "security.openshift.io/validated-scc-subject-type";
/// Namespace annotation: the block of user ids.
pub const UID_RANGE: &str = "openshift.io/sa.scc.uid-range";
/// Namespace annotation: the SELinux level.
pub const MCS: &str = "openshift.io/sa.scc.mcs";
/// Namespace annotation: the blocks of supplemental groups.
pub const SUPPLEMENTAL_GROUPS: &str = "openshift.io/sa.scc.supplemental-groups";
/// Legacy pod annotation with the pod's seccomp profile; still honoured and still written.
pub const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
/// Prefix of the legacy pod annotation with a container's seccomp profile.
pub const SECCOMP_CONTAINER_PREFIX: &str = "container.seccomp.security.alpha.kubernetes.io/";
/// Annotation of the cluster network; a change of it alone is not looked at.
pub(crate) const POD_NETWORKS: &str = "k8s.ovn.org/pod-networks";
