/*
 * The peer of the benchmarks of many files: a directory of another file system, passed through by
 * libfuse's high-level API, single-threaded. Usage: passthrough_tree DIRECTORY MOUNTPOINT
 */
#define FUSE_USE_VERSION 35
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int root;

static const char *under(const char *path) { return path[1] ? path + 1 : "."; }
static int result(int value) { return value < 0 ? -errno : 0; }

static void *do_init(struct fuse_conn_info *conn, struct fuse_config *config)
{
    (void)conn;
    config->entry_timeout = config->attr_timeout = config->negative_timeout = 3600;
    config->nullpath_ok = 1;
    return NULL;
}

static int do_getattr(const char *path, struct stat *st, struct fuse_file_info *info)
{
    return result(info ? fstat(info->fh, st) : fstatat(root, under(path), st, AT_SYMLINK_NOFOLLOW));
}

static int do_create(const char *path, mode_t mode, struct fuse_file_info *info)
{
    int fd = openat(root, under(path), info->flags | O_CREAT, mode);
    info->fh = fd;
    return result(fd);
}

static int do_open(const char *path, struct fuse_file_info *info)
{
    int fd = openat(root, under(path), info->flags);
    info->fh = fd;
    return result(fd);
}

static int do_read(const char *path, char *data, size_t size, off_t at, struct fuse_file_info *info)
{
    ssize_t count = pread(info->fh, data, size, at);
    (void)path;
    return count < 0 ? -errno : count;
}

static int do_write(const char *path, const char *data, size_t size, off_t at,
                    struct fuse_file_info *info)
{
    ssize_t count = pwrite(info->fh, data, size, at);
    (void)path;
    return count < 0 ? -errno : count;
}

static int do_release(const char *path, struct fuse_file_info *info)
{
    (void)path;
    return result(close(info->fh));
}

static int do_unlink(const char *path) { return result(unlinkat(root, under(path), 0)); }
static int do_mkdir(const char *path, mode_t mode) { return result(mkdirat(root, under(path), mode)); }
static int do_rmdir(const char *path) { return result(unlinkat(root, under(path), AT_REMOVEDIR)); }

static int do_readdir(const char *path, void *buffer, fuse_fill_dir_t fill, off_t at,
                      struct fuse_file_info *info, enum fuse_readdir_flags flags)
{
    DIR *directory = fdopendir(openat(root, under(path), O_RDONLY | O_DIRECTORY));
    struct dirent *entry;
    (void)at;
    (void)info;
    (void)flags;
    if (directory == NULL)
        return -errno;
    while ((entry = readdir(directory)) != NULL)
        fill(buffer, entry->d_name, NULL, 0, 0);
    closedir(directory);
    return 0;
}

static const struct fuse_operations operations = {
    .init = do_init,
    .getattr = do_getattr,
    .create = do_create,
    .open = do_open,
    .read = do_read,
    .write = do_write,
    .release = do_release,
    .unlink = do_unlink,
    .mkdir = do_mkdir,
    .rmdir = do_rmdir,
    .readdir = do_readdir,
};

int main(int argc, char **argv)
{
    char *arguments[] = {argv[0], "-f", "-s", argc > 2 ? argv[2] : "", NULL};
    if (argc < 3 || (root = open(argv[1], O_RDONLY | O_DIRECTORY)) < 0) {
        fprintf(stderr, "usage: passthrough_tree DIRECTORY MOUNTPOINT\n");
        return 1;
    }
    return fuse_main(4, arguments, &operations, NULL);
}
