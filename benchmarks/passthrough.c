/*
 * The peer of the mount benchmarks: one file of another file system, passed through by libfuse's
 * low-level API, single-threaded. Usage: passthrough FILE MOUNTPOINT [libfuse options]
 */
#define FUSE_USE_VERSION 35
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int backing_fd;
enum { DEVICE = 2 };

static void fill(fuse_ino_t ino, struct stat *st)
{
    memset(st, 0, sizeof *st);
    st->st_ino = ino;
    if (ino == DEVICE) {
        struct stat real;
        fstat(backing_fd, &real);
        st->st_mode = S_IFREG | 0600;
        st->st_size = real.st_size;
    } else {
        st->st_mode = S_IFDIR | 0755;
    }
    st->st_nlink = 1;
}

static void do_init(void *data, struct fuse_conn_info *conn)
{
    (void)data;
    conn->want &= ~(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
    conn->max_write = 1 << 20;
}

static void do_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param entry = {.ino = DEVICE, .attr_timeout = 1, .entry_timeout = 3600};
    if (parent != FUSE_ROOT_ID || strcmp(name, "device") != 0) {
        fuse_reply_err(req, ENOENT);
        return;
    }
    fill(DEVICE, &entry.attr);
    fuse_reply_entry(req, &entry);
}

static void do_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info)
{
    struct stat st;
    (void)info;
    fill(ino, &st);
    fuse_reply_attr(req, &st, 1);
}

static void do_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info)
{
    (void)ino;
    info->direct_io = 1;
    fuse_reply_open(req, info);
}

static void do_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                    struct fuse_file_info *info)
{
    struct fuse_bufvec buffer = FUSE_BUFVEC_INIT(size);
    (void)ino;
    (void)info;
    buffer.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
    buffer.buf[0].fd = backing_fd;
    buffer.buf[0].pos = offset;
    fuse_reply_data(req, &buffer, 0);
}

static void do_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset,
                     struct fuse_file_info *info)
{
    ssize_t count = pwrite(backing_fd, data, size, offset);
    (void)ino;
    (void)info;
    if (count < 0)
        fuse_reply_err(req, errno);
    else
        fuse_reply_write(req, count);
}

static const struct fuse_lowlevel_ops operations = {
    .init = do_init,
    .lookup = do_lookup,
    .getattr = do_getattr,
    .open = do_open,
    .read = do_read,
    .write = do_write,
};

int main(int argc, char **argv)
{
    struct fuse_args args = FUSE_ARGS_INIT(1, argv);
    struct fuse_session *session;
    int status;

    if (argc < 3 || (backing_fd = open(argv[1], O_RDWR)) < 0) {
        fprintf(stderr, "usage: passthrough FILE MOUNTPOINT\n");
        return 1;
    }
    session = fuse_session_new(&args, &operations, sizeof operations, NULL);
    if (session == NULL || fuse_set_signal_handlers(session) != 0 ||
        fuse_session_mount(session, argv[2]) != 0)
        return 1;
    status = fuse_session_loop(session);
    fuse_session_unmount(session);
    fuse_session_destroy(session);
    return status != 0;
}
