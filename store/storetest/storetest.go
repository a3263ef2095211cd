// Package storetest helps to test stores, and what stands on them: a conformance
// suite that every back end passes, a store in memory that watches over its
// users, one that fails by plan, and real S3 servers.
package storetest
