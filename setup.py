"""The C core, and what pyproject.toml cannot say yet: the stable ABI and its wheel tag."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "daxmend._native._core",
            sources=[
                "src/daxmend/_native/_core.c",
                "src/daxmend/_native/digest.c",
                "src/daxmend/_native/digest_avx2.c",
                "src/daxmend/_native/move.c",
                "src/daxmend/_native/table.c",
                "src/daxmend/_native/trap.c",
                "src/daxmend/_native/watch.c",
            ],
            depends=[
                f"src/daxmend/_native/{name}.h"
                for name in ("digest", "move", "table", "trap", "watch")
            ],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            extra_compile_args=["-std=c11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
            py_limited_api=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
