"""Gaze in a user's own pictures: faces -> head pose -> normalised patches -> network -> calibration -> camera space.

    estimator = GazeEstimator.from_run("runs/x", landmarker=faces.FaceLandmarker("face_landmarker.task"))
    for face in estimator.step(image):
        print(face.face_id, np.rad2deg(face.camera_rad))

Network, personal calibration and mean of the two eyes work in normalised space; answers are given in both spaces. Patches
of all faces of a call go through the network together, padded to 1, 2, 4 .. 32, so that nothing is compiled twice.
"""

import copy
import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from core_jax.train import Params
from gaze_jax import cameras, face_model, geometry
from gaze_jax import screen as screen_lib
from gaze_jax.cameras import Intrinsics
from gaze_jax.model import Model
from gaze_jax.people import calibration_file, placing, views
from gaze_jax.people.answers import Answerer
from gaze_jax.people.calibration_file import Personal
from gaze_jax.people.face_gaze import FaceGaze
from gaze_jax.people.faces import Face, Landmarker, Tracker
from gaze_jax.people.placing import Placed
from gaze_jax.people.smoothing import Smoother
from gaze_jax.people.views import View

# What virtual cameras of faces look at, where it is not "eth".
_CENTRES = {"mpiifacegaze": "mpii", "faze_strip": "eyes"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frame:
    """A picture to look at.

    Attributes:
      image: RGB.
      name: path of a file, or number in a video.
      time_s: since the start of the video; None for a picture that stands alone.
      faces: where they are; None asks the landmarker.
    """

    image: UInt8[np.ndarray, "H W 3"]
    name: str = ""
    time_s: float | None = None
    faces: Sequence[Face] | None = None


class GazeEstimator:
    """Finds where the people in a picture look.

    Args:
      model: the network.
      params: its parameters.
      camera: the virtual camera that its training pictures were taken with, or how they were cropped.
      landmarker: finds faces; None where every frame brings its own.
      intrinsics: of the camera that took the pictures; None guesses a focal length of the picture's width.
      personal: calibration of the person looked at.
      screen: where the screen stands, for the point that is looked at.
      smooth: steady the angles of frames that have a time.
      max_faces: the largest so many; None takes all.
      reference: what faces are centred on, "mpii", "eth" or "eyes"; None takes the virtual camera's usual one.
      equalize: whether grey patches are histogram-equalised, as those of MPIIGaze are.
      face_points_mm: the face model that the network was trained with.

    Raises:
      ValueError: camera, calibration and network do not fit each other.
    """

    def __init__(
        self,
        model: Model,
        params: Params,
        camera: views.Viewer,
        *,
        landmarker: Landmarker | None = None,
        intrinsics: Intrinsics | None = None,
        personal: Personal | None = None,
        screen: screen_lib.Screen | None = None,
        smooth: bool = False,
        max_faces: int | None = None,
        reference: str | None = None,
        equalize: bool = True,
        face_points_mm: Mapping[str, Sequence[float]] = face_model.POINTS,
    ) -> None:
        if (camera.height, camera.width) != tuple(model.size[:2]):
            raise ValueError(
                f"the virtual camera {camera.name} takes {camera.width} x {camera.height} pictures, {model.name} looks at "
                f"{model.size[1]} x {model.size[0]}: name the camera of its training data"
            )
        self.model, self.params, self.camera = model, params, camera
        self.landmarker, self.intrinsics = landmarker, intrinsics
        self.screen, self.max_faces, self.equalize = screen, max_faces, equalize
        self.reference = reference or _CENTRES.get(camera.name, "eth")
        self.face_points_mm = face_points_mm
        self._tracker = Tracker()
        self._smoother = Smoother() if smooth else None
        self._guesses: dict[tuple[int, int], Intrinsics] = {}
        self._take(personal)

    @classmethod
    def from_run(
        cls, workdir: str | os.PathLike, *, fold: int = 0, camera: str = "", **options: Any
    ) -> "GazeEstimator":
        """The estimator of a trained run; neither its data set nor anything else it read is needed.

        Args:
          workdir: of the run.
          fold: which network of a run that trained all folds together.
          camera: name of another virtual camera than the run's.
          options: of the estimator.
        """
        from gaze_jax import trained

        run = trained.load(workdir, fold)
        dataset = run.config.data.dataset
        # The reader of MPIIFaceGaze centres faces on eyes and mouth; grey eyes of MPIIGaze were equalised when they were made.
        options.setdefault("equalize", "mpiigaze" in dataset)
        if "mpiifacegaze" in dataset:
            options.setdefault("reference", "mpii")
        if not camera and run.camera is None:
            height, width, _ = run.model.size
            if "gaze360" in dataset:
                viewer = views.PlainCrop(width, height, side_mm=300.0, along_ray=True)
            else:
                viewer = views.PlainCrop(width, height)
        else:
            viewer = views.default_camera(
                run.model, camera or (run.camera.name if run.camera else "")
            )
        return cls(run.model, run.params, viewer, **options)

    @property
    def digest(self) -> str:
        """SHA-256 of what the network has learned: a calibration fits this one only."""
        return calibration_file.model_digest(self.params)

    @property
    def smooth(self) -> bool:
        """Whether the angles of frames that have a time are steadied."""
        return self._smoother is not None

    def calibrated(self, personal: Personal) -> "GazeEstimator":
        """An estimator like this one for a person; nothing is loaded again.

        Raises:
          ValueError: calibration and network do not fit each other.
        """
        other = copy.copy(self)
        other._take(personal)
        other.forget()
        return other

    def _take(self, personal: Personal | None) -> None:
        self.personal = personal
        self.answer = Answerer(self.model, self.params, personal)
        known = personal.face_model if personal else ""
        if known and known != face_model.digest(self.face_points_mm):
            logging.warning(
                "the calibration of %s was made with another face model (%s) than this one (%s): pitches of head and gaze "
                "are shifted between the two; calibrate again",
                personal and personal.person,
                known[:12],
                face_model.digest(self.face_points_mm)[:12],
            )

    def step(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        *,
        faces: Sequence[Face] | None = None,
        name: str = "",
        time_s: float | None = None,
    ) -> list[FaceGaze]:
        """The gaze of every face of a picture, largest face first.

        Args:
          image: RGB.
          faces: where they are; None asks the landmarker.
          name: of the picture, for landmarkers that read files.
          time_s: of a frame of a video.

        Raises:
          ValueError: nobody says where the faces are, or they are given in a way this network cannot use.
        """
        return self.batch([Frame(image=image, name=name, time_s=time_s, faces=faces)])[0]

    def batch(self, frames: Sequence[Frame]) -> list[list[FaceGaze]]:
        """The gaze of every face of several pictures, in order of time; see `step`."""
        placed = [self.place(frame) for frame in frames]
        looks = [self.look(frame, found) for frame, found in zip(frames, placed)]
        seen = [view for look in looks for views_of_face in look for view in views_of_face]
        angles = iter(self.answer(seen))
        results = []
        for frame, found, look in zip(frames, placed, looks):
            intrinsics = self.intrinsics_of(frame.image)
            answers = [
                self._compose(face, intrinsics, of_face, [next(angles) for _ in of_face])
                for face, of_face in zip(found, look)
            ]
            results.append(self._finish(frame, answers))
        return results

    def intrinsics_of(self, image: UInt8[np.ndarray, "H W 3"]) -> Intrinsics:
        """Those given, or a guess for pictures of this size."""
        if self.intrinsics is not None:
            return self.intrinsics
        size = (image.shape[1], image.shape[0])
        if size not in self._guesses:
            self._guesses[size] = cameras.guess(*size, warn=not self._guesses)
        return self._guesses[size]

    def place(self, frame: Frame) -> list[Placed]:
        """The faces of a frame in space, largest first."""
        found = frame.faces
        if found is None:
            if self.landmarker is None:
                raise ValueError(
                    "nobody says where the faces are: give a landmarker or the faces themselves (--landmarks, --boxes, "
                    "--landmarker=face_landmarker.task)"
                )
            found = self.landmarker(frame.image, frame.name)
        found = sorted(found, key=lambda face: -face.area_px)[: self.max_faces]
        eyes = self.model.kind == "eye"
        bare = sum(not face.model_points_px for face in found)
        if bare and (eyes or self.model.uses_head):
            raise ValueError(
                f"{frame.name or 'the picture'}: {bare} faces are boxes without points, and {self.model.name} "
                + ("looks at eyes" if eyes else "needs the head pose")
                + ": give landmarks (--landmarks or --landmarker), or use a face network without head pose"
            )
        return [
            placing.place(
                face,
                self.intrinsics_of(frame.image),
                self.face_points_mm,
                box_suffices=not (eyes or self.model.uses_head),
            )
            for face in found
        ]

    def look(self, frame: Frame, found: Sequence[Placed]) -> list[list[View]]:
        """What the network sees of each face; nothing of those with a problem."""
        if all(placed.problem for placed in found):
            return [[] for _ in found]
        intrinsics = self.intrinsics_of(frame.image)
        image = views.padded(frame.image, intrinsics)
        see = lambda placed: views.look(
            image,
            placed,
            intrinsics,
            self.camera,
            eyes=self.model.kind == "eye",
            grey=self.model.size[2] == 1,
            equalize=self.equalize,
            reference=self.reference,
        )
        return [[] if placed.problem else see(placed) for placed in found]

    def _compose(
        self,
        placed: Placed,
        intrinsics: Intrinsics,
        seen: Sequence[View],
        angles: Sequence[Float[np.ndarray, " 2"]],
    ) -> FaceGaze:
        """One answer for a face: the mean of its views in camera space."""
        if seen:
            vectors = np.asarray(geometry.pitchyaw_to_vector(np.stack(angles)), np.float64)
            vector = sum(view.norm.T @ v for view, v in zip(seen, vectors))
            vector = np.asarray(vector) / np.linalg.norm(vector)
        else:
            vector = np.full(3, np.nan)
        if self.model.kind == "eye":
            origin = placed.eyes_mm
        else:
            origin = placed.reference_mm(self.reference)
        # Of a face of two eyes: what a virtual camera that looks at their midpoint has.
        plan = views.plan(intrinsics, placed.rotation, origin, self.camera)
        norm = np.asarray(plan.R)
        head = np.full(2, np.nan)
        if placed.head_pose:
            head = np.asarray(geometry.rotation_to_head_pitchyaw(placed.rotation), np.float64)
        camera_rad = _pitchyaw(vector)
        return FaceGaze(
            face_id=-1,
            box_px=placed.face.box_px,
            points_px=placed.face.points_px,
            crops_px=np.asarray([view.corners_px for view in seen]).reshape(-1, 4, 2),
            camera_rad=camera_rad,
            normalised_rad=_pitchyaw(norm @ vector),
            measured_rad=camera_rad,
            camera_vector=vector,
            normalised_vector=norm @ vector,
            origin_mm=origin,
            eyes_mm=placed.eyes_mm,
            norm=norm,
            scale=float(plan.scale),
            head_rotation=placed.rotation,
            head_rad=head,
            head_pose=placed.head_pose,
            residual_px=placed.residual_px,
            distance_mm=float(np.linalg.norm(origin)),
            blink=placed.face.blink,
            calibrated=self.personal is not None and self.personal.method != "screen",
            problem=placed.problem,
        )

    def _finish(self, frame: Frame, found: Sequence[FaceGaze]) -> list[FaceGaze]:
        """Numbers for the faces, steadied angles, and where on the screen they look."""
        if frame.time_s is None:
            numbers = list(range(len(found)))
        else:
            numbers = self._tracker(np.asarray([face.box_px for face in found]), frame.time_s)
        finished = []
        for face, number in zip(found, numbers):
            face = dataclasses.replace(face, face_id=number)
            if self._smoother is not None and frame.time_s is not None and not face.problem:
                face = self._steady(face, self._smoother, frame.time_s)
            finished.append(self._on_screen(face))
        return finished

    def _steady(self, face: FaceGaze, smoother: Smoother, time_s: float) -> FaceGaze:
        measured_deg = np.rad2deg(face.measured_rad)
        steady_deg = smoother(face.face_id, measured_deg, time_s, blink=bool(face.blink))
        camera_rad = np.deg2rad(steady_deg)
        vector = np.asarray(geometry.pitchyaw_to_vector(camera_rad), np.float64)
        return dataclasses.replace(
            face,
            camera_rad=camera_rad,
            camera_vector=vector,
            normalised_vector=face.norm @ vector,
            normalised_rad=_pitchyaw(face.norm @ vector),
            smoothed=True,
        )

    def _on_screen(self, face: FaceGaze) -> FaceGaze:
        if face.problem:
            return face
        if self.screen is None:
            learned = self.personal and self.personal.screen
            if not learned:
                return face
            return dataclasses.replace(face, screen_px=learned.point(face.camera_rad))
        mm, px, on_screen = screen_lib.point(face.origin_mm, face.camera_vector, self.screen)
        return dataclasses.replace(
            face,
            screen_mm=np.asarray(mm, np.float64),
            screen_px=np.asarray(px, np.float64),
            on_screen=bool(on_screen),
        )

    def forget(self) -> None:
        """Start a new video: no face is known, no angle is held."""
        self._tracker = Tracker()
        self._smoother = Smoother() if self.smooth else None

    def replay(self, time_s: float | None, rows: Sequence[Mapping[str, Any]]) -> None:
        """Live through a frame again from what was written of it, so that later frames come out as without a break.

        Args:
          time_s: of the frame.
          rows: `FaceGaze.row` of its faces.
        """
        if time_s is None:
            return
        numbers = self._tracker(np.asarray([row["box_px"] for row in rows]), time_s)
        for number, row in zip(numbers, rows):
            if self._smoother is not None and not row["problem"]:
                measured_deg = np.asarray([row["measured_pitch_deg"], row["measured_yaw_deg"]])
                self._smoother(number, measured_deg, time_s, blink=bool(row["blink"]))


def _pitchyaw(vector: Float[np.ndarray, " 3"]) -> Float[np.ndarray, " 2"]:
    return np.asarray(geometry.vector_to_pitchyaw(vector), np.float64)
