//! The conformance suite of the compute API, on the daemon.

use boxrig::Connect;
use boxrig::compute::conformance;

use super::lab::{Lab, Network};

async fn check(connect: Connect) {
    let connection = connect.image("busybox").name("lab").open().await.unwrap();
    let report = conformance::run(&*connection.compute).await;
    println!("{report}");
    assert!(report.passed(), "{report}");
    for check in [
        "a_token_launches_once",
        "much_output_is_whole",
        "a_terminal_has_its_size",
        "a_directory_survives_both_ways",
        "a_snapshot_brings_files_back",
        "a_fork_has_the_files_and_its_own_life",
    ] {
        assert!(report.holds(check), "{check}: {report}");
    }
}

/// Over the socket, then over TLS.
#[tokio::test(flavor = "multi_thread")]
async fn conformance() {
    let Some(lab) = Lab::by("conformance.rs::conformance", "compute") else {
        return;
    };
    let url = format!("incus+unix://{}", lab.socket);
    check(Connect::new(url.parse().unwrap())).await;
    let network = Network::of_daemon().expect("BOXRIG_INCUS_HTTPS names no address");
    let pem = std::fs::read(&network.server_cert).unwrap();
    let pin = boxrig::incus::fingerprint_of_pem(&pem).unwrap();
    let url = format!("incus://{}", network.host);
    let connect = Connect::new(url.parse().unwrap())
        .pin(pin)
        .certificate(&network.cert, &network.key);
    check(connect).await;
    // What the suite made it has removed: its label is on nothing any more.
    let label = "user.boxrig.conformance=1";
    let left = lab.says(&["list", label, "--format", "csv", "--columns", "n"]);
    assert_eq!(left.trim(), "");
    lab.confirmed("instance_delete");
}
