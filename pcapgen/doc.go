// Package pcapgen turns the chunks of a snapshot into one capture file.
//
// Export is a streaming merge. It reads only the chunks that overlap the window,
// opens each one shortly before its first packet is due, and holds a batch of
// about 64 KiB of each chunk that is open: memory is bounded by how many chunks
// overlap in time, not by the size of the snapshot. Every chunk is verified
// against its address before any of it is decompressed.
//
// What always holds:
//
//   - The same request on the same snapshot gives the same bytes, on any
//     machine, however many processors it has.
//   - Packets are in order of their time stamps as recorded. Of the next packets
//     of all chunks, the one that goes first has the lowest time; at the same
//     time the lowest interface (in the order of the output, which is by node
//     name and then by interface name), then the chunk that stands first in its
//     node's inventory. Packets of one chunk never change their order.
//   - Until the last byte is written, what has been written ends inside a block.
//     An export that fails, or that is killed, never leaves a short file that
//     looks whole to a reader.
//   - Packets are copied as they were recorded; only the number of their
//     interface changes, and a comment may come after those that they have.
//     Clocks are not corrected: where a node's clock is known to be off by more
//     than its error, the window is moved for that node.
//
// Where the snapshot has a kubernetes stream, all of it is read first, into a
// cluster.Table. Packets are chosen by it, as of their time. Unless the request is
// plain, a pcapng also says before the packets what addresses are called, has a
// comment on each packet with who it is from and to, and between the packets a
// systemd journal entry for each event of the cluster, before the packets of its
// microsecond. Whoever has no use for that reads the packets alone: other readers
// skip such blocks.
package pcapgen
