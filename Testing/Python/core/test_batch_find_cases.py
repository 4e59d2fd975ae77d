"""What a batch finds: CT files, their masks, CSV lists and DICOM trees; each case once, under a name that stays."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from core import dicom_writer
from core.phantom import grid, phantom

from medconv.batch import dicom_scan, find_cases
from medconv.batch.case_ids import case_id_of, series_id_of
from medconv.batch.find_cases import CaseFinder, Findings
from medconv.batch.job_list import JobList
from medconv.batch.jobs import BatchJob
from medconv.batch.mask_rules import MaskRule
from medconv.types import UsageError


def find(out: Path, *inputs: Path, rule: MaskRule | None = None) -> tuple[dict[str, BatchJob], Findings]:
    with JobList(out / "listing" / "cases.jsonl") as jobs:
        findings = CaseFinder(rule or MaskRule(), out, jobs).find(inputs)
        listed = list(jobs)
        assert [job.case_id for job in listed] == sorted(job.case_id for job in listed)
        assert len({job.case_id for job in listed}) == len(listed) == len(jobs)
    return {job.case_id: job for job in listed}, findings


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape"))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("s1.nii.gz", "s1"),
        ("train/S1.nii.gz", "train--S1"),
        ("a/b/ct.nrrd", "a--b--ct.nrrd"),
        ("1.2.840.113619.2.55", "1.2.840.113619.2.55"),
    ],
)
def test_a_plain_path_is_its_own_name(path, name) -> None:
    assert case_id_of(path) == name


@pytest.mark.parametrize(
    ("path", "start"),
    [
        ("Müller/ct.nii.gz", "M_ller--ct"),
        ("a b.nii.gz", "a_b"),
        ("a\nb.nii.gz", "a_b"),
        ("a--b.nii.gz", "a--b"),
        (".hidden.nii.gz", "hidden"),
        ("con.nii.gz", "con"),
        ("x" * 150 + ".nii.gz", "x" * 87),
    ],
)
def test_any_other_name_ends_with_digits_of_the_path(path, start) -> None:
    assert case_id_of(path) == f"{start}-{hashlib.sha256(path.encode()).hexdigest()[:12]}"


def test_bytes_that_are_no_text_have_a_name(tmp_path) -> None:
    path = os.fsdecode(b"a\xff.nii.gz")
    assert case_id_of(path) == f"a_-{hashlib.sha256(b'a' + bytes([255]) + b'.nii.gz').hexdigest()[:12]}"


def test_a_folder_gives_its_cts_and_leaves_out_what_is_named_like_a_mask(tmp_path) -> None:
    touch(
        tmp_path / "in", "a.nii.gz", "a_mask.nii.gz", "sub/b.nrrd", "sub/b_seg.nii.gz", "c.mha", "notes.txt", "._a.nii"
    )
    jobs, findings = find(tmp_path / "out", tmp_path / "in", rule=MaskRule(label=31))
    found = {name: Path(job.mask).name for name, job in jobs.items()}
    assert found == {"a": "a_mask.nii.gz", "c.mha": "", "sub--b.nrrd": "b_seg.nii.gz"}
    assert (jobs["a"].label, jobs["c.mha"].label) == (31, None)
    assert findings.skipped == Counter({find_cases.NAMED_LIKE_MASKS: 2})
    assert findings.with_mask == 2
    assert findings.others == {".txt": 1}


def test_what_is_neither_image_nor_dicom_is_counted_by_kind(tmp_path) -> None:
    touch(tmp_path / "in", "a.nii.gz", "report.pdf", "sub/Report2.PDF", "b.mhd", "b.raw", "DICOMDIR", ".hidden")
    for name in ("notes", "scan.bin"):  # as large as a DICOM header: looked into
        (tmp_path / "in" / "sub" / name).write_bytes(bytes(200))
    (tmp_path / "in" / "empty").mkdir()
    for _ in range(2):  # the second time from what the first remembered
        findings = find(tmp_path / "out", tmp_path / "in")[1]
        assert findings.others == {".pdf": 2, "": 1, ".bin": 1}
        assert +findings.skipped == {find_cases.EMPTY_FOLDERS: 1}


@pytest.mark.parametrize(
    "mask",
    ["a.nii.gz", "a.nrrd", "a_seg.nii.gz", "sub/a.nii.gz", "a/vertebrae_L1.nii.gz", "a/segmentations/vertebrae_L1.nii"],
)
def test_a_folder_of_masks_is_searched_by_name(tmp_path, mask) -> None:
    touch(tmp_path / "in", "sub/a.nii.gz")
    touch(tmp_path / "masks", mask)
    jobs, _ = find(tmp_path / "out", tmp_path / "in", rule=MaskRule(tmp_path / "masks", label=31))
    job = jobs["sub--a"]
    assert job.mask == str(tmp_path / "masks" / mask)
    assert job.label == (None if "vertebrae_L1" in mask else 31), "TotalSegmentator's single file has one label"


def test_totalsegmentators_data_set_is_known(tmp_path) -> None:
    for case in ("s0", "s1"):
        touch(tmp_path / "in" / case, "ct.nii.gz", "segmentations/vertebrae_L1.nii.gz", "segmentations/liver.nii.gz")
    jobs, _ = find(tmp_path / "out", tmp_path / "in")
    assert {name: Path(job.mask).parts[-3] for name, job in jobs.items()} == {"s0--ct": "s0", "s1--ct": "s1"}


def test_a_simulated_cohort_says_itself_where_its_masks_are(tmp_path) -> None:
    touch(tmp_path / "in", "train_data/x1.nii.gz", "masks/x1.nii.gz", "labels.xlsx")
    (tmp_path / "in" / "cohort.json").write_text(json.dumps({"kind": "simulated cohort"}))
    jobs, _ = find(tmp_path / "out", tmp_path / "in")
    assert [(name, Path(job.mask).parent.name, job.label) for name, job in jobs.items()] == [
        ("train_data--x1", "masks", 31)
    ]


def test_inputs_that_overlap_count_once(tmp_path) -> None:
    touch(tmp_path, "one/ct.nii.gz")
    with JobList(tmp_path / "cases.jsonl") as listed:
        CaseFinder(MaskRule(), tmp_path / "out", listed).find([tmp_path / "one", tmp_path / "one"])
        assert ([job.case_id for job in listed], listed.listed_twice) == (["ct"], 1)


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        (["one", "two"], ["one--b", "one--ct", "two--ct"]),
        (["one/ct.nii.gz", "two/ct.nii.gz"], ["one--ct", "two--ct"]),
        (["one/ct.nii.gz", "one/b.nii.gz"], ["b", "ct"]),
        (["two", "list.csv"], ["list--P1", "two--ct"]),
        (["list.csv"], ["P1"]),
    ],
)
def test_with_several_inputs_each_goes_before_its_cases(tmp_path, inputs, names) -> None:
    touch(tmp_path, "one/ct.nii.gz", "one/b.nii.gz", "two/ct.nii.gz")
    write_list(tmp_path, "ct,id\none/ct.nii.gz,P1\n")
    assert list(find(tmp_path / "out", *(tmp_path / given for given in inputs))[0]) == names


def test_inputs_of_one_name_get_digits_of_their_paths(tmp_path) -> None:
    touch(tmp_path, "one/cts/a.nii.gz", "two/CTS/a.nii.gz")
    roots = [tmp_path / "one" / "cts", tmp_path / "two" / "CTS"]
    digits = [hashlib.sha256(str(root).encode()).hexdigest()[:12] for root in roots]
    assert set(find(tmp_path / "out", *roots)[0]) == {f"cts-{digits[0]}--a", f"CTS-{digits[1]}--a"}


LATE = {
    "another case": ("p/ct.nii.gz", "P/ct.nii.gz"),
    "another ending's case": ("a.nii.gz", "a.NII.GZ"),
    "another format": ("a.nii.gz", "a.nii"),
    "folders that read alike": ("a--b.nii.gz", "a/b.nii.gz"),
    "blank and line": ("a b.nii.gz", "a_b.nii.gz"),
    "umlauts": ("\u00e4.nii.gz", "\u00f6.nii.gz"),
    "case as before, with text that is none": ("x.nii.gz", os.fsdecode(b"x\xff.nii.gz")),
}


@pytest.mark.parametrize(("early", "late"), LATE.values(), ids=LATE)
def test_what_arrives_later_renames_nobody(tmp_path, early, late) -> None:
    """Whichever comes first: neither name depends on the other file."""
    for number, order in enumerate(((early, late), (late, early))):
        data, out = tmp_path / f"in{number}", tmp_path / f"out{number}"
        touch(data, order[0])
        (before,) = find(out, data)[0]
        touch(data, order[1])
        after = find(out, data)[0]
        assert len(after) == 2
        assert after[before].ct == str(data / order[0])


def test_a_series_and_a_file_of_its_name_are_two_cases(tree, tmp_path) -> None:
    root, uids = tree
    data = tmp_path / "in"
    data.mkdir()
    (data / "p1").symlink_to(root / "p1")
    touch(data, f"{uids['ct']}.nii.gz", "p1.nii.gz")
    assert set(find(tmp_path / "out", data)[0]) == {uids["ct"], f"{uids['ct']}.nii.gz", "p1"}
    assert series_id_of("", "p1") == f"p1-{hashlib.sha256(b'p1/').hexdigest()[:12]}", "a series without UID"


def test_two_rows_of_one_name_are_refused(tmp_path) -> None:
    touch(tmp_path, "a.nii.gz", "m1.nii.gz", "m2.nii.gz")
    with pytest.raises(UsageError, match=r"line 3: the CT of line 2 again, .* give each a case_id"):
        find(tmp_path / "out", write_list(tmp_path, "ct,mask\na.nii.gz,m1.nii.gz\na.nii.gz,m2.nii.gz\n"))


def test_two_inputs_with_one_case_and_two_masks_are_refused(tmp_path) -> None:
    touch(tmp_path, "a.nii.gz", "a_mask.nii.gz")
    one, other = (BatchJob("a", str(tmp_path / "a.nii.gz"), mask=mask) for mask in ("m1.nii.gz", "m2.nii.gz"))
    with JobList(tmp_path / "cases.jsonl") as jobs:
        jobs.add(one)
        with pytest.raises(UsageError, match=r"Two cases are called 'a': .*m1.nii.gz.* and .*m2.nii.gz") as refused:
            jobs.add(other)
    assert "case_id" in refused.value.remedy


@pytest.mark.parametrize("head", ["ct,mask,case_id", "ct,mask,unused"])
def test_the_same_row_twice_counts_once_with_and_without_a_case_id(tmp_path, head) -> None:
    text = f"{head}\na.nii.gz,m.nii.gz,P1\n./a.nii.gz,m.nii.gz,P1\n"
    assert len(find(tmp_path / "out", write_list(tmp_path, text))[0]) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="makes links")
def test_links_are_followed_but_not_in_circles(tmp_path) -> None:
    touch(tmp_path, "in/a/ct.nii.gz", "elsewhere/far.nii.gz")
    (tmp_path / "in" / "a" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "itself").symlink_to("itself")
    (tmp_path / "in" / "other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "gone.nii.gz").symlink_to("nothing")
    jobs, _ = find(tmp_path / "out", tmp_path / "in")
    assert sorted(jobs) == ["a--ct", "gone", "other--far"]


def test_the_batches_own_folder_inside_the_input_is_not_searched(tmp_path) -> None:
    touch(tmp_path / "in", "a.nii.gz", "out/cases/x/l1.nii.gz")
    jobs, _ = find(tmp_path / "in" / "out", tmp_path / "in")
    assert list(jobs) == ["a"]


def test_a_changed_file_or_mask_has_another_fingerprint(tmp_path) -> None:
    touch(tmp_path / "in", "a.nii.gz", "a_mask.nii.gz")
    seen = []
    for name in ("", "a.nii.gz", "a_mask.nii.gz"):
        if name:
            (tmp_path / "in" / name).write_bytes(b"something longer than before")
        seen.append(find(tmp_path / "out", tmp_path / "in")[0]["a"].fingerprint)
        assert find(tmp_path / "out", tmp_path / "in")[0]["a"].fingerprint == seen[-1]
    assert len(set(seen)) == 3


def write_list(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    file = folder / "list.csv"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode(encoding))
    return file


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("ct,mask,label,case_id\nsub/a.nii.gz,m/a.nii.gz,20,P 1\n", "utf-8"),
        ("CT Path;Seg;L1-Label;ID\r\nsub/a.nii.gz;m/a.nii.gz;20.0;P 1\r\n\r\n", "utf-8-sig"),
        ("Image\tMask_Path\tLabel\tCase\nsub/a.nii.gz\tm/a.nii.gz\t20\tP 1\n", "cp1252"),
    ],
)
def test_a_list_is_read_as_people_write_it(tmp_path, text, encoding) -> None:
    touch(tmp_path, "sub/a.nii.gz", "m/a.nii.gz")
    jobs, _ = find(tmp_path / "out", write_list(tmp_path, text, encoding))
    (job,) = jobs.values()
    assert (job.ct, job.mask) == (str(tmp_path / "sub/a.nii.gz"), str(tmp_path / "m/a.nii.gz"))
    assert (job.label, job.case_id[:4]) == (20, "P_1-")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mask\nx\n", "no column 'ct'"),
        ("ct,label\na,L1\n", "line 2: the label 'L1' is no whole number"),
        ("ct,mask\na,\n,b\n", "line 3: there is no CT"),
        ("ct,id\na,1\nb,1\n", "line 3: case_id '1' stands also in line 2"),
        ("ct,label,label_map\na,31,verse\n", "both name L1's label"),
        ("ct,maks,label\na,m,31\n", r"'maks' \(meant: mask\?\)"),
        ("ct;Mask;lable\na;m;31\n", r"'lable' \(meant: label\?\)"),
        ("imgae,mask\na,m\n", r"'imgae' \(meant: ct\?\)"),
    ],
)
def test_an_error_in_a_list_names_its_line(tmp_path, text, message) -> None:
    with pytest.raises(UsageError, match=message):
        find(tmp_path / "out", write_list(tmp_path, text))


def test_all_errors_of_a_list_are_told_at_once_up_to_ten(tmp_path) -> None:
    rows = "".join(f"a{i},L1\n" for i in range(13))
    with pytest.raises(UsageError) as refused:
        find(tmp_path / "out", write_list(tmp_path, f"ct,label\n{rows}"))
    lines = [f"line {i}:" for i in range(2, 15)]
    assert [line in refused.value.message for line in lines] == [True] * 10 + [False] * 3
    assert "and 3 more" in refused.value.message


def test_columns_of_other_things_are_named_and_not_read(tmp_path) -> None:
    text = "ct,age,sex,site,T-score,patient,mask,series_date\na.nii.gz,70,f,x,-2,p,m.nii.gz,2020\n"
    jobs, findings = find(tmp_path / "out", write_list(tmp_path, text))
    assert [Path(job.mask).name for job in jobs.values()] == ["m.nii.gz"]
    assert findings.ignored_columns == ["age", "sex", "site", "T-score", "patient", "series_date"]


def test_a_label_with_a_decimal_comma_is_its_number(tmp_path) -> None:
    jobs, _ = find(tmp_path / "out", write_list(tmp_path, "ct;mask;label\na.nii.gz;m.nii.gz;31,0\n"))
    assert [job.label for job in jobs.values()] == [31]


@pytest.mark.skipif(sys.platform == "win32", reason="there backslashes separate folders")
def test_backslashes_between_folders_are_named(tmp_path) -> None:
    touch(tmp_path, "odd\\name.nii.gz")
    text = "ct,mask\nodd\\name.nii.gz,m.nii.gz\ndata\\a.nii.gz,m\\a.nii.gz\n"
    with pytest.raises(UsageError) as refused:
        find(tmp_path / "out", write_list(tmp_path, text))
    assert "line 3: the path of the ct has backslashes" in refused.value.message
    assert "line 3: the path of the mask has backslashes" in refused.value.message
    assert "line 2" not in refused.value.message, "a file may have a backslash in its name"


def test_a_missing_file_of_a_list_stays_a_case(tmp_path) -> None:
    jobs, _ = find(tmp_path / "out", write_list(tmp_path, "ct\ngone.nii.gz\n"))
    assert [job.ct for job in jobs.values()] == [str(tmp_path / "gone.nii.gz")]


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """Patients with a CT over two folders, a CT beside a localizer, another modality, a capture, a short series."""
    root = tmp_path_factory.mktemp("dicom")
    ct = phantom(grid((8.0, 8.0, 8.0))).ct
    write = dicom_writer.write_series
    uids = {"ct": write(root / "p1" / "s1", ct), "other": write(root / "p2" / "all", ct, shuffle_seed=1)}
    half = root / "p1" / "s1b"
    half.mkdir()
    for file in sorted((root / "p1" / "s1").iterdir())[::2]:
        file.rename(half / file.name)
    write(root / "p2" / "scout", ct, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write(root / "p2" / "mr", ct, modality="MR")
    write(root / "p2" / "dose", ct, SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    write(root / "p2" / "short", ct, skip=tuple(range(5, 100)))
    touch(root, "p2/DICOMDIR", "p2/readme.txt", "p2/all/thumbs.db")
    return root, uids


def test_every_ct_series_with_enough_slices_is_a_case(tree, tmp_path) -> None:
    root, uids = tree
    jobs, findings = find(tmp_path / "out", root)
    assert set(jobs) == set(uids.values())
    job = jobs[uids["ct"]]
    slices = len(phantom(grid((8.0, 8.0, 8.0))).ct.array_zyx)
    assert (job.ct, len(job.files)) == (str(root / "p1"), slices)
    assert {Path(file).parent.name for file in job.files} == {"s1", "s1b"}
    assert findings.skipped == Counter(
        {dicom_scan.LOCALIZER: 1, dicom_scan.OTHER_MODALITY: 1, dicom_scan.CAPTURE: 1, dicom_scan.TOO_FEW: 1}
    )


def test_unchanged_folders_are_not_read_again(tree, tmp_path, monkeypatch) -> None:
    root, _ = tree
    first, _ = find(tmp_path / "out", root)
    read: list[str] = []
    reader = dicom_scan.read_folder

    def counted(folder, files):
        read.append(folder.name)
        return reader(folder, files)

    monkeypatch.setattr(dicom_scan, "read_folder", counted)
    memory = tmp_path / "out" / "listing" / find_cases.DICOM_MEMORY
    with memory.open("ab") as stream:
        stream.write(b'{"stamp": "torn')
    second, _ = find(tmp_path / "out", root)
    assert second == first
    assert read == []
    touched = next((root / "p2" / "all").iterdir())
    os.utime(touched, ns=(1, 1))
    third, _ = find(tmp_path / "out", root)
    assert read == ["all"]
    changed = [name for name in third if third[name].fingerprint != first[name].fingerprint]
    assert len(changed) == 1


def test_a_series_is_read_as_it_lies_in_two_folders(tree, tmp_path) -> None:
    from medconv.volume_io import open_ct

    root, uids = tree
    job = find(tmp_path / "out", root)[0][uids["ct"]]
    ct = open_ct(job.ct, job.series_uid, job.files).read()
    assert np.array_equal(ct.array_zyx, phantom(grid((8.0, 8.0, 8.0))).ct.array_zyx)


def test_an_input_that_is_not_there_is_said(tmp_path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        find(tmp_path / "out", tmp_path / "gone")
