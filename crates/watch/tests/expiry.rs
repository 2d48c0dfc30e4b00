//! Watches against the real embedded API server, behind a gate that breaks their connections.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/gate.rs"]
mod gate;

use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Duration;

use ferrovirt_apiserver::server::{Config, Server};
use futures::{Stream, StreamExt as _};
use gate::Gate;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt as _};

/// Far more than anything here takes; a test that waits so long has failed.
const DEADLINE: Duration = Duration::from_secs(60);

async fn client(kubeconfig: &str) -> Client {
    let config = kube::config::Kubeconfig::from_yaml(kubeconfig).unwrap();
    let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

async fn make(api: &Api<ServiceAccount>, name: &str) {
    let account = ServiceAccount {
        metadata: kube::core::ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
        ..Default::default()
    };
    api.create(&PostParams::default(), &account).await.unwrap();
}

type Events = Pin<Box<dyn Stream<Item = Event<ServiceAccount>> + Send>>;

/// Reads until `name` was seen; how many whole lists came until then.
async fn until(events: &mut Events, name: &str) -> usize {
    let look = async {
        let mut lists = 0;
        loop {
            match events.next().await.unwrap() {
                Event::Apply(object) | Event::InitApply(object) if object.name_any() == name => return lists,
                Event::InitDone => lists += 1,
                _ => {}
            }
        }
    };
    tokio::time::timeout(DEADLINE, look).await.unwrap_or_else(|_| panic!("{name} was never seen"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_whose_revision_the_server_forgot_lists_again_and_goes_on() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::open(Config {
        data_dir: data.path().join("data"),
        listen: "127.0.0.1:0".parse().unwrap(),
        agent_socket: data.path().join("agent.sock"),
        scc_admission: Default::default(),
        longest_watch: None,
        audit: None,
    })
    .await
    .unwrap();
    let gate = Gate::before(server.address()).await;
    let admin = client(&server.admin_kubeconfig()).await;
    let watching = client(&gate.through(&server.admin_kubeconfig())).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let serving = tokio::spawn(server.serve(stopped));

    let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), "default");
    let watched: Api<ServiceAccount> = Api::namespaced(watching, "default");
    let mut events: Events =
        Box::pin(ferrovirt_watch::follow(watched, watcher::Config::default(), "accounts".to_owned()));
    make(&accounts, "first").await;
    until(&mut events, "first").await;
    for round in ["second", "third"] {
        make(&accounts, round).await;
        until(&mut events, round).await;
        let missed = format!("{round}-missed");
        let object = "/api/v1/namespaces/default/serviceaccounts/first";
        assert!(gate.expire(&gate.connections(), &admin, &[object]).await > 0);
        make(&accounts, &missed).await;
        until(&mut events, &missed).await;
        // The watch after the list works, too.
        let later = format!("{round}-later");
        make(&accounts, &later).await;
        until(&mut events, &later).await;
    }
    assert!(gate::expired(&admin).await >= 2, "a watch went on from a revision that was forgotten");
    let names: BTreeSet<String> =
        accounts.list(&Default::default()).await.unwrap().into_iter().map(|one| one.name_any()).collect();
    assert!(names.contains("third-later"));
    stop.send_replace(true);
    serving.await.unwrap();
}
