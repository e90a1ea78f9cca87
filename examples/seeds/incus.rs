//! Every example of the vendor's document of instances, in Rust. Takes its server from the environment, as the standard tool does
//! (`INCUS_SOCKET`, `INCUS_REMOTE`, …), and an image from `BOXRIG_IMAGE` (`ubuntu/22.04` there, `busybox` here).

use boxrig_incus::models::InstanceFull;
use boxrig_incus::{Change, Client, Exec, NewInstance};
use boxrig_wire::{Kind, Result};

#[tokio::main]
async fn main() -> Result<()> {
    let client = Client::from_env()?;
    let image = std::env::var("BOXRIG_IMAGE").unwrap_or_else(|_| "busybox".to_owned());
    let id = std::process::id();
    let (mine, container, vm) = (
        format!("my-instance-{id}"),
        format!("my-container-{id}"),
        format!("my-vm-{id}"),
    );
    let done = usage(&client, &image, &mine).await;
    let done = match done {
        Ok(()) => create_and_execute(&client, &image, &container).await,
        Err(e) => Err(e),
    };
    let done = match done {
        Ok(()) => create_a_virtual_machine(&client, &image, &vm).await,
        Err(e) => Err(e),
    };
    for name in [&mine, &container, &vm] {
        if let Ok(deleted) = client.instances().delete_running(name).await {
            deleted.wait().await?;
        }
    }
    done
}

/// "Usage": list, create, get, start, stop, delete.
async fn usage(client: &Client, image: &str, name: &str) -> Result<()> {
    // List all instances
    let instances: Vec<InstanceFull> = client.instances().list().await?;
    println!("{} instances", instances.len());

    // Create a new instance
    let created = client
        .instances()
        .create(NewInstance::from_image(name, image))
        .await?;
    created.wait().await?;

    // Get an instance
    let instance = client.instances().get(name).await?;
    assert_eq!(instance.name, name);

    // Start an instance
    client
        .instances()
        .start(name, Change::new())
        .await?
        .wait()
        .await?;
    assert!(client.instances().state(name).await?.pid > 0);

    // Stop an instance
    client
        .instances()
        .stop(name, Change::new().force())
        .await?
        .wait()
        .await?;

    // Delete an instance
    client.instances().delete(name).await?.wait().await?;
    let gone = client.instances().get(name).await;
    assert!(gone.is_err_and(|e| e.kind() == Kind::NotFound));
    Ok(())
}

/// "Creating a Container" and "Executing Commands".
async fn create_and_execute(client: &Client, image: &str, name: &str) -> Result<()> {
    let new = NewInstance::from_image(name, image)
        .config("limits.cpu", "2")
        .config("limits.memory", "2GB")
        .device(
            "root",
            [("path", "/"), ("pool", "default"), ("type", "disk")],
        )
        .profiles(["default"]);
    let made = client.instances().create(new).await?.wait().await?;
    assert_eq!(
        made.config.get("limits.memory").map(String::as_str),
        Some("2GB")
    );
    client
        .instances()
        .start(name, Change::new())
        .await?
        .wait()
        .await?;

    // Execute a command; the recorded output is fetched, and nothing is left on the server.
    let result = client
        .instances()
        .run_recorded(name, Exec::new(["echo", "Hello, World!"]))
        .await?;
    let stdout = String::from_utf8_lossy(&result.stdout).into_owned();
    print!("{stdout}");
    assert_eq!((&*stdout, result.code), ("Hello, World!\n", 0));
    Ok(())
}

/// "Creating a Virtual Machine". A server without KVM, or an image that is none of a virtual machine, refuses it, and says so.
async fn create_a_virtual_machine(client: &Client, image: &str, name: &str) -> Result<()> {
    let new = NewInstance::from_image(name, image).virtual_machine();
    let made = match client.instances().create(new).await {
        Ok(operation) => operation.wait().await,
        Err(e) => Err(e),
    };
    match made {
        Ok(instance) => assert_eq!(instance.r#type, "virtual-machine"),
        Err(e) => {
            println!("no virtual machine here: {e}");
            let drivers = client.info().await?.environment.driver;
            assert!(
                !drivers.contains("qemu"),
                "the server could have made one: {e}"
            );
        }
    }
    Ok(())
}
