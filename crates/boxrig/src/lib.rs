//! boxrig-vergeos
