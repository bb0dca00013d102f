#include "sys/file.h"

#include "base/alloc.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static bool read_to_end(int fd, const char *path, struct strbuf *out, size_t ceiling,
                        struct error *err)
{
    char chunk[16384];
    size_t before = out->len;

    for (;;) {
        ssize_t n = read(fd, chunk, sizeof chunk);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_set_errno(err, errno, "could not read \"%s\"", path);
        if (n == 0)
            return true;
        if (out->len - before + (size_t) n > ceiling)
            return error_set(err, ERR_IO, "\"%s\" is larger than %zu bytes", path, ceiling);
        strbuf_add(out, chunk, (size_t) n);
    }
}

bool file_read(const char *path, struct strbuf *out, size_t ceiling, struct error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set_errno(err, errno, "could not open \"%s\"", path);
    bool ok = read_to_end(fd, path, out, ceiling, err);
    close(fd);
    return ok;
}

bool file_write_all(int fd, const void *data, size_t len, const char *path, struct error *err)
{
    const char *p = data;
    while (len > 0) {
        ssize_t n = write(fd, p, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_set_errno(err, errno, "could not write \"%s\"", path);
        p += n;
        len -= (size_t) n;
    }
    return true;
}

bool file_sync_dir(const char *dir, struct error *err)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return error_set_errno(err, errno, "could not open directory \"%s\"", dir);
    int rc = fsync(fd);
    int saved = errno;
    close(fd);
    return rc == 0 || error_set_errno(err, saved, "could not sync directory \"%s\"", dir);
}

/* The directory that holds path; caller frees. */
static char *parent_of(const char *path)
{
    char *copy = xstrdup(path);
    char *parent = xstrdup(dirname(copy));
    free(copy);
    return parent;
}

/* fchown before fchmod: chown(2) clears the set-user-ID bits. */
static bool match_existing(int fd, const char *path, mode_t mode, struct error *err)
{
    struct stat st;
    if (stat(path, &st) == 0) {
        mode = st.st_mode & 07777;
        bool same = st.st_uid == geteuid() && st.st_gid == getegid();
        if (!same && fchown(fd, st.st_uid, st.st_gid) != 0)
            return error_set_errno(err, errno, "could not keep the owner of \"%s\"", path);
    } else if (errno != ENOENT) {
        return error_set_errno(err, errno, "could not look at \"%s\"", path);
    }
    if (fchmod(fd, mode) != 0)
        return error_set_errno(err, errno, "could not set the mode of \"%s\"", path);
    return true;
}

static bool fill(int fd, const char *path, const void *data, size_t len, mode_t mode,
                 struct error *err)
{
    if (!match_existing(fd, path, mode, err) || !file_write_all(fd, data, len, path, err))
        return false;
    if (fsync(fd) != 0)
        return error_set_errno(err, errno, "could not sync \"%s\"", path);
    return true;
}

bool file_replace(const char *path, const void *data, size_t len, mode_t mode, struct error *err)
{
    /* through a symbolic link: the file it names is replaced, not the link */
    char *resolved = realpath(path, NULL);
    char *target = resolved ? resolved : xstrdup(path);
    char *dir = parent_of(target);
    char *temp = xstrfmt("%s/.pgcutover.XXXXXX", dir);
    bool ok = false;

    int fd = mkostemp(temp, O_CLOEXEC);
    if (fd < 0) {
        error_set_errno(err, errno, "could not create a file in \"%s\"", dir);
        goto out;
    }
    ok = fill(fd, target, data, len, mode, err);
    if (close(fd) != 0 && ok)
        ok = error_set_errno(err, errno, "could not close \"%s\"", temp);
    if (ok && rename(temp, target) != 0)
        ok = error_set_errno(err, errno, "could not rename \"%s\" to \"%s\"", temp, target);
    if (!ok)
        unlink(temp);
    ok = ok && file_sync_dir(dir, err);
out:
    free(temp);
    free(dir);
    free(target);
    return ok;
}

static bool make_one_dir(const char *dir, struct error *err)
{
    struct stat st;
    if (mkdir(dir, 0777) == 0)
        return true;
    int saved = errno;
    if (saved == EEXIST && stat(dir, &st) == 0 && S_ISDIR(st.st_mode))
        return true;
    return error_set_errno(err, saved, "could not create directory \"%s\"", dir);
}

bool file_make_dir(const char *dir, struct error *err)
{
    char *partial = xstrdup(dir);
    bool ok = true;

    for (char *p = partial + 1; ok && partial[0] && *p; p++) {
        if (*p != '/')
            continue;
        *p = '\0';
        ok = make_one_dir(partial, err);
        *p = '/';
    }
    ok = ok && make_one_dir(partial, err);
    free(partial);
    return ok;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void) st;
    (void) type;
    (void) ftw;
    return remove(path) == 0 || errno == ENOENT ? 0 : -1;
}

bool file_remove_tree(const char *path, struct error *err)
{
    if (nftw(path, remove_entry, 32, FTW_DEPTH | FTW_PHYS) == 0 || errno == ENOENT)
        return true;
    return error_set_errno(err, errno, "could not remove \"%s\"", path);
}

bool file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *) a, *(char *const *) b);
}

bool file_list(const char *dir, char ***names, size_t *count, struct error *err)
{
    char **list = NULL;
    size_t n = 0;
    size_t cap = 0;
    struct dirent *entry;

    DIR *d = opendir(dir);
    if (!d)
        return error_set_errno(err, errno, "could not open directory \"%s\"", dir);
    while (errno = 0, (entry = readdir(d)) != NULL)
        if (entry->d_name[0] != '.')
            *VEC_ADD(list, n, cap) = xstrdup(entry->d_name);
    int saved = errno;
    closedir(d);
    *VEC_ADD(list, n, cap) = NULL;
    if (saved != 0) {
        file_free_list(list);
        return error_set_errno(err, saved, "could not read directory \"%s\"", dir);
    }
    qsort(list, n - 1, sizeof *list, compare_names);
    *names = list;
    if (count)
        *count = n - 1;
    return true;
}

void file_free_list(char **names)
{
    for (size_t i = 0; names && names[i]; i++)
        free(names[i]);
    free(names);
}

/* Files may come and go while we look: what is gone counts as nothing. */
static bool add_size(int parent, const char *name, const char *path, int64_t *bytes,
                     struct error *err)
{
    struct stat st;
    struct dirent *entry;

    if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return errno == ENOENT || error_set_errno(err, errno, "could not look at \"%s\"", path);
    if (!S_ISDIR(st.st_mode)) {
        *bytes += st.st_size;
        return true;
    }
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        int saved = errno;
        if (fd >= 0)
            close(fd);
        return saved == ENOENT || error_set_errno(err, saved, "could not open \"%s\"", path);
    }
    bool ok = true;
    while (ok && (entry = readdir(d)) != NULL)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            ok = add_size(dirfd(d), entry->d_name, path, bytes, err);
    closedir(d);
    return ok;
}

bool file_tree_size(const char *path, int64_t *bytes, struct error *err)
{
    *bytes = 0;
    return add_size(AT_FDCWD, path, path, bytes, err);
}

bool file_free_space(const char *path, int64_t *bytes, struct error *err)
{
    struct statvfs fs;
    if (statvfs(path, &fs) != 0)
        return error_set_errno(err, errno, "could not ask for the free space of \"%s\"", path);
    *bytes = (int64_t) fs.f_bavail * (int64_t) fs.f_frsize;
    return true;
}

bool file_lock(const char *path, int *fd, struct error *err)
{
    int opened = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (opened < 0)
        return error_set_errno(err, errno, "could not open \"%s\"", path);
    if (flock(opened, LOCK_EX | LOCK_NB) != 0) {
        int saved = errno;
        close(opened);
        if (saved == EWOULDBLOCK)
            return error_set(err, ERR_LOCKED, "\"%s\" is locked by another process", path);
        return error_set_errno(err, saved, "could not lock \"%s\"", path);
    }
    *fd = opened;
    return true;
}
