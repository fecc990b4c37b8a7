SUMMARY = "A Skerry board's disk"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://${SKERRY_TREE}/LICENSE;md5=3b83ef96387f14655fc854ddc3c6bd57"

# The root is in the parts: wic only puts them where the assembler's layout wants them.
inherit image

COMPATIBLE_MACHINE = "^skerry-"
PACKAGE_INSTALL = ""
IMAGE_LINGUAS = ""
do_image_wic[depends] += "skerry-parts:do_deploy"
