use crate::model::{reply, request};

reply! {
    /// An HTTP service of a machine, reached as `<name>--<id in hex>.proxy.<domain>`.
    pub struct Service = "Service" {
        required {
            /// 1 to 29 characters.
            name: String = "name",
            /// The TCP port in the machine, 1024 or more.
            port: u16 = "port",
            /// Whether the proxy speaks cleartext HTTP/2 to it (gRPC needs that), else HTTP/1.1.
            h2c: bool = "h2c",
        }
    }

    /// A service as a snapshot keeps it.
    pub struct SnapshotService = "SnapshotService" {
        required {
            /// Its name.
            name: String = "name",
            /// Its port.
            port: u16 = "port",
        }
        optional {
            /// Whether it speaks cleartext HTTP/2.
            h2c: bool = "h2c",
        }
    }
}

request! {
    /// A registration.
    pub struct RegisterServiceRequest = "RegisterServiceRequest" {
        required {
            /// 1 to 29 characters.
            name: String = "name",
            /// The TCP port in the machine, 1024 or more.
            port: u16 = "port",
        }
        optional {
            /// `false` when absent.
            h2c: bool = "h2c",
        }
    }

    /// A registration under the name in the path.
    pub struct UpdateServiceRequest = "UpdateServiceRequest" {
        required {
            /// The TCP port in the machine, 1024 or more.
            port: u16 = "port",
        }
        optional {
            /// `false` when absent.
            h2c: bool = "h2c",
        }
    }
}
