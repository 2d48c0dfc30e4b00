//! Credentials that are injected into a running guest.

crate::wire::wire! {
    AccessCredential {
        ssh_public_key: Option<SshPublicKeyAccessCredential>,
        user_password: Option<UserPasswordAccessCredential>,
    }

    SshPublicKeyAccessCredential {
        propagation_method: SshPublicKeyAccessCredentialPropagationMethod,
        source: SshPublicKeyAccessCredentialSource,
    }

    SshPublicKeyAccessCredentialPropagationMethod {
        config_drive: Option<ConfigDriveSshPublicKeyAccessCredentialPropagation>,
        no_cloud: Option<NoCloudSshPublicKeyAccessCredentialPropagation>,
        qemu_guest_agent: Option<QemuGuestAgentSshPublicKeyAccessCredentialPropagation>,
    }

    ConfigDriveSshPublicKeyAccessCredentialPropagation {}

    NoCloudSshPublicKeyAccessCredentialPropagation {}

    QemuGuestAgentSshPublicKeyAccessCredentialPropagation {
        #[serde(default)]
        users: Vec<String>,
    }

    SshPublicKeyAccessCredentialSource {
        secret: Option<AccessCredentialSecretSource>,
    }

    AccessCredentialSecretSource {
        secret_name: String,
    }

    UserPasswordAccessCredential {
        propagation_method: UserPasswordAccessCredentialPropagationMethod,
        source: UserPasswordAccessCredentialSource,
    }

    UserPasswordAccessCredentialPropagationMethod {
        qemu_guest_agent: Option<QemuGuestAgentUserPasswordAccessCredentialPropagation>,
    }

    QemuGuestAgentUserPasswordAccessCredentialPropagation {}

    UserPasswordAccessCredentialSource {
        secret: Option<AccessCredentialSecretSource>,
    }
}
